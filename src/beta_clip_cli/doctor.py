"""`beta-clip doctor`: what is installed, what is missing and what it would be for, what the hardware can do."""

import argparse
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

from .reports import Report, add_json_argument, reporting


OK, MISSING, NOTE = "ok", "missing", "note"
PACKAGE = "beta-clip-hf"
WITHOUT_METADATA = ("torch", "transformers", "huggingface_hub")  # what is looked at in any case


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip doctor`."""
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """The report is what was found. The exit code is 1 where something that every command needs is missing."""
    found = examine()
    width = max(len(one["what"]) for one in found)
    lines = []
    for one in found:
        remedy = f"\n{'':{width + 11}}→ {one['remedy']}" if one["remedy"] else ""
        lines.append(f"{one['state']:<8} {one['what']:<{width}}  {one['found']}{remedy}")
    return Report(found, "\n".join(lines), int(any(one["state"] == MISSING and one["is_needed"] for one in found)))


def examine() -> list[dict[str, Any]]:
    """
    A record for each thing that was looked at: `what`, `state` ("ok", "missing" or "note"), `found`, `remedy`, and
    `is_needed`, whether nothing works without it. Nothing is downloaded, and no connection is made.
    """
    found = [_record("Python", OK, platform.python_version()), _own()]
    for extra, packages in _requirements().items():
        for package, allowed in packages.items():
            found.append(_package(package, allowed, extra))
    missing = {one["what"] for one in found if one["state"] == MISSING}
    if not missing & {"torch", "transformers"}:
        found += _hardware()
    return found if "huggingface_hub" in missing else [*found, *_hub()]


def _own() -> dict[str, Any]:
    """Of this package, which also runs from its source, but does not know then which versions it needs."""
    try:
        return _record(PACKAGE, OK, version(PACKAGE))
    except PackageNotFoundError:
        found = "not installed: this is its source, and which versions it needs is not known"
        return _record(PACKAGE, MISSING, found, "pip install -e . (in the folder of its source)")


def _requirements() -> dict[str, dict[str, str]]:
    """By extra ("" for what is always needed): the names of the distributions and the versions that are allowed."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        lines = list(WITHOUT_METADATA)
    by_extra: dict[str, dict[str, str]] = {"": {}}
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if match and match[0].lower() != PACKAGE and (extra is None or extra[1] != "dev"):
            name, of_extra = match[0], by_extra.setdefault(extra[1] if extra else "", {})
            of_extra[name] = requirement.strip().removeprefix(name).strip()
    return by_extra


def _package(name: str, allowed: str, extra: str) -> dict[str, Any]:
    what = f"{name} [{extra}]" if extra else name
    try:
        installed = version(name)
    except PackageNotFoundError:
        remedy = f"pip install '{PACKAGE}[{extra}]'" if extra else f"pip install '{name}{allowed}'"
        return _record(what, MISSING, f"not installed (needs {allowed or 'any version'})", remedy, not extra)
    from packaging.specifiers import SpecifierSet

    if allowed and not SpecifierSet(allowed).contains(installed, prereleases=True):
        return _record(what, MISSING, f"{installed}, but needs {allowed}", f"pip install '{name}{allowed}'", not extra)
    return _record(what, OK, installed)


def _hardware() -> list[dict[str, Any]]:
    """Devices, what their numbers can be, and the kernels for attention."""
    try:
        import torch
        from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
    except Exception as error:  # of an installation that is broken, anything may be raised
        reason = " ".join(str(error).split())
        remedy = "install torch anew, for this machine: https://pytorch.org/get-started"
        return [_record("hardware", MISSING, f"torch cannot be imported: {reason}", remedy, True)]

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    found = [_record("CPU", OK, f"{platform.machine()}, {threads} used by torch")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            has_bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            found.append(_record(f"GPU {index}", OK, f"{properties.name}, {memory}, {has_bf16}"))
    else:
        found.append(_record("GPU", NOTE, "none that torch can use; training is slow without one"))
    flash = {"flash_attention_2": is_flash_attn_2_available(), "flash_attention_3": is_flash_attn_3_available()}
    kernels = ", ".join(["sdpa", "eager", *(name for name, is_there in flash.items() if is_there)])
    found.append(_record("attention", OK, f"{kernels} (texts of one batch share rows under each of them)"))
    if find_spec("torchvision") is None:
        found.append(_record("torchvision", NOTE, "not installed: images are resized by PIL, which is slower"))
    else:
        found.append(_record("torchvision", OK, version("torchvision")))
    return found


def _hub() -> list[dict[str, Any]]:
    """Where downloads go, whether the Hub may be asked at all, and whether there is a token for it."""
    from huggingface_hub import constants, get_token

    offline = ", offline (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    where = f"{constants.ENDPOINT}, cache in {constants.HF_HUB_CACHE}{offline}"
    token = "found" if get_token() else "none: public models only, and no beta-clip push"
    return [
        _record("Hub", NOTE if offline else OK, where, "unset HF_HUB_OFFLINE to download" if offline else ""),
        _record("Hub token", OK if get_token() else NOTE, token, "" if get_token() else "hf auth login"),
    ]


def _record(what: str, state: str, found: str, remedy: str = "", is_needed: bool = False) -> dict[str, Any]:
    return {"what": what, "state": state, "found": found, "remedy": remedy, "is_needed": is_needed}
