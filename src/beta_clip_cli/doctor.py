"""`beta-clip doctor`: tells what is installed, what is missing and needed for what, and what the hardware can do."""

import argparse
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

from .reports import Report, add_json_argument, reporting


OK, MISSING, NOTE = "ok", "missing", "note"
PACKAGE = "beta-clip-hf"
# Packages to look for if this package is not installed, so that its requirements cannot be read.
WITHOUT_METADATA = ("torch", "transformers", "huggingface_hub")
EXTRAS_OF_DEVELOPERS = ("dev", "test")
_STATE_WIDTH = 8


@dataclass(frozen=True)
class Finding:
    """Describes the state of a package, a device or a setting."""

    subject: str
    state: str
    """"ok", "missing" or "note"."""
    detail: str
    remedy: str = ""
    is_needed: bool = False
    """Whether nothing works without it."""

    def to_json(self) -> dict[str, Any]:
        """Returns the finding under the names that docs/command_line.md describes."""
        return {
            "what": self.subject,
            "state": self.state,
            "found": self.detail,
            "remedy": self.remedy,
            "is_needed": self.is_needed,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip doctor`."""
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Reports all findings. The exit code is 1 if something that every command needs is missing."""
    findings = examine()
    is_broken = any(finding.state == MISSING and finding.is_needed for finding in findings)
    return Report([finding.to_json() for finding in findings], format_findings(findings), int(is_broken))


def format_findings(findings: list[Finding]) -> str:
    """Formats findings as a plain-text table, with a remedy on a line of its own."""
    # The library has a printer of tables, but must not be imported here: torch may be broken.
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<{_STATE_WIDTH}} {finding.subject:<{width}}  {finding.detail}")
        if finding.remedy:
            indent = " " * (_STATE_WIDTH + width + 3)
            lines.append(f"{indent}→ {finding.remedy}")
    return "\n".join(lines)


def examine() -> list[Finding]:
    """Examines the installation. Nothing is downloaded, and no connection is made."""
    findings = [Finding("Python", OK, platform.python_version()), _examine_this_package()]
    for extra, requirements in _requirements().items():
        for package, allowed in requirements.items():
            findings.append(_examine_package(package, allowed, extra))
    missing = {finding.subject for finding in findings if finding.state == MISSING}
    if not missing & {"torch", "transformers"}:
        findings += _examine_hardware()
    if "huggingface_hub" not in missing:
        findings += _examine_hub()
    return findings


def _examine_this_package() -> Finding:
    """Examines whether this package is installed. It also runs from its source, without metadata of its own."""
    try:
        return Finding(PACKAGE, OK, version(PACKAGE))
    except PackageNotFoundError:
        detail = "not installed: this is its source, and which versions it needs is not known"
        return Finding(PACKAGE, MISSING, detail, "pip install -e . (in the folder of its source)")


def _requirements() -> dict[str, dict[str, str]]:
    """Returns the required packages of each extra with their allowed versions. The extra "" is always needed."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        lines = list(WITHOUT_METADATA)
    requirements: dict[str, dict[str, str]] = {"": {}}
    for line in lines:
        requirement, _, marker = line.partition(";")
        requirement = requirement.strip()
        name_match = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra_match = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        extra = extra_match[1] if extra_match else ""
        # An extra that takes in other extras requires this package itself.
        if name_match is None or name_match[0].lower() == PACKAGE or extra in EXTRAS_OF_DEVELOPERS:
            continue
        name = name_match[0]
        requirements.setdefault(extra, {})[name] = requirement.removeprefix(name).strip()
    return requirements


def _examine_package(name: str, allowed: str, extra: str) -> Finding:
    """Looks for a package, and whether its version is one of those that are allowed."""
    subject = f"{name} [{extra}]" if extra else name
    is_needed = not extra
    try:
        installed = version(name)
    except PackageNotFoundError:
        detail = f"not installed (needs {allowed or 'any version'})"
        remedy = f"pip install '{name}{allowed}'"
        return Finding(subject, MISSING, detail, remedy, is_needed)
    from packaging.specifiers import SpecifierSet

    if allowed and not SpecifierSet(allowed).contains(installed, prereleases=True):
        detail = f"{installed}, but needs {allowed}"
        return Finding(subject, MISSING, detail, f"pip install '{name}{allowed}'", is_needed)
    return Finding(subject, OK, installed)


def _examine_hardware() -> list[Finding]:
    """Examines the devices, the number types that they have, and the kernels for attention."""
    try:
        import torch
        from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
    # A broken installation can raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())
        remedy = "install torch anew, for this machine: https://pytorch.org/get-started"
        return [Finding("hardware", MISSING, f"torch cannot be imported: {reason}", remedy, is_needed=True)]

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    findings = [Finding("CPU", OK, f"{platform.machine()}, {threads} used by torch"), *_examine_gpus(torch)]
    kernels = ["sdpa", "eager"]
    if is_flash_attn_2_available():
        kernels.append("flash_attention_2")
    if is_flash_attn_3_available():
        kernels.append("flash_attention_3")
    detail = f"{', '.join(kernels)} (texts of one batch share rows under each of them)"
    findings.append(Finding("attention", OK, detail))
    if find_spec("torchvision") is None:
        findings.append(Finding("torchvision", NOTE, "not installed: images are resized by PIL, which is slower"))
    else:
        findings.append(Finding("torchvision", OK, version("torchvision")))
    return findings


def _examine_gpus(torch: Any) -> list[Finding]:
    """Examines the GPUs that torch can use."""
    if not torch.cuda.is_available():
        return [Finding("GPU", NOTE, "none that torch can use; training is slow without one")]
    # Emulated bfloat16 would be slower than float32.
    bfloat16 = "no bfloat16"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        bfloat16 = "bfloat16"
    findings = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        findings.append(Finding(f"GPU {index}", OK, f"{properties.name}, {memory}, {bfloat16}"))
    return findings


def _examine_hub() -> list[Finding]:
    """Examines the cache of downloads, whether downloads are allowed, and whether there is a token."""
    from huggingface_hub import constants, get_token

    place = f"{constants.ENDPOINT}, cache in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        detail = f"{place}, offline (HF_HUB_OFFLINE is set)"
        hub = Finding("Hub", NOTE, detail, "unset HF_HUB_OFFLINE to download")
    else:
        hub = Finding("Hub", OK, place)
    if get_token():
        return [hub, Finding("Hub token", OK, "found")]
    return [hub, Finding("Hub token", NOTE, "none: public models only, and no beta-clip push", "hf auth login")]
