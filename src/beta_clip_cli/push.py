"""`beta-clip push`: uploads a model to the Hub."""

import argparse
import logging

from .reports import Report, add_json_argument, reporting


logger = logging.getLogger(__name__)

# The help names the default without importing the library; a test holds it equal to that of the library.
UNKNOWN_LICENCE = "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip push`."""
    parser.add_argument("folder", metavar="DIR", help="model directory, such as the output of beta-clip train")
    parser.add_argument("repo_id", metavar="REPO_ID", help="repository to upload to: NAME or ORGANISATION/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--license", metavar="NAME", default=UNKNOWN_LICENCE, help="licence of the weights, for the model card"
    )
    parser.add_argument(
        "--data-license",
        metavar="NAME",
        help="licence of the training data, for the model card (default: what the run has recorded)",
    )
    parser.add_argument("--revision", metavar="NAME", help="branch to upload to (default: main)")
    parser.add_argument(
        "--dry-run", metavar="DIR", help="write what would be uploaded into this folder, and upload nothing"
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Uploads. The report is the address of the commit."""
    from beta_clip_hf.release import hub

    fields = {"license": args.license, "data_license": args.data_license}
    if args.dry_run:
        hub.build_repository(args.folder, args.dry_run, args.repo_id, **fields)
        logger.info("%s holds what would be uploaded", args.dry_run)
        return Report({"repo_id": args.repo_id, "url": None, "folder": args.dry_run})
    url = hub.push(args.folder, args.repo_id, private=args.private, revision=args.revision, **fields)
    return Report({"repo_id": args.repo_id, "url": url, "folder": None}, url)
