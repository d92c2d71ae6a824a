"""Turns an error into one sentence for the user, with a remedy if one is known."""

import errno
import os
import re
from collections.abc import Sequence


USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
"""Errors that a user can mend. Any other is a fault of the program."""
# Errors of libraries are known by their names, because importing torch and safetensors would take seconds.
OUT_OF_MEMORY, DAMAGED, PICKLED_CODE = "OutOfMemoryError", "SafetensorError", "UnpicklingError"
_LONGEST_REASON = 200
# What huggingface_hub makes of a configuration's wrong value; the error that it hides says what is wrong.
WRONG_FIELDS = ("StrictDataclassClassValidationError", "StrictDataclassFieldValidationError")
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EEXIST: "there is a file where a directory is to be; choose another name",
    errno.EISDIR: "a file must be named, not a directory",
    errno.ENOTDIR: "a part of the path is a file; choose another",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: "free some, or choose another place; what is finished stays",
    errno.EDQUOT: "free some, or choose another place; what is finished stays",
}
# Libraries in Rust (safetensors, LanceDB) report a full disk by errors of their own: "I/O error: … (os error 28)".
_RUST_ERROR = re.compile(r"os error (\d+)")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_TOKEN_SETTING = re.compile(r"(token=)[^\s'\"]+")
# Words of the long messages of transformers and huggingface_hub, and what these messages mean.
_HUB_MEANINGS = {
    "couldn't connect to": "{absent} cannot be downloaded, and is no directory here: check the path and the connection "
    "(beta-clip doctor says whether the Hub may be asked)",
    "is not a valid model identifier": "{absent} is neither a directory here nor a model on the Hub that you may read: "
    "check the name, or log in with hf auth login",
    "Unrecognized model in": "{present} must be a model directory, whose config.json names a model_type, or a Hub id, "
    "but is neither",
    "is not a valid JSON file": "a model must be a directory with a config.json, or a Hub id, but the config file of "
    "{any} is not a valid JSON file: name the directory of a model",
    "Can't load image processor": "a model directory must have its processor (processor_config.json and a tokenizer), "
    "but {any} has none: save the processor beside the model",
    "gated repo": "{absent} is gated: ask for access on its page on the Hub, then log in with hf auth login",
    "Error no file named": "a model directory must have its weights (model.safetensors), but has none: name one "
    "that beta-clip train or save_pretrained has written",
}


def sentence_of(error: BaseException, models: Sequence[str] = ()) -> str | None:
    """
    Returns the message of an error on one line, with a remedy if one is known; `None` for a fault of the program.

    Args:
        error: The error that was raised.
        models: Names of the models and tokenizers that the command was given. Not all libraries name the one that they
            could not load.
    """
    message = " ".join(str(error).split())
    error_name = type(error).__name__
    absent, present = _names_by_presence(models)
    disk_error = _disk_error(message)
    if disk_error is not None:
        return _system_sentence(disk_error)
    if error_name == OUT_OF_MEMORY:
        return f"the memory of the device does not suffice, try a smaller --batch-size: {message}"
    if error_name == DAMAGED:
        return f"the weights of {present} must be whole, but are not ({message}): copy or download them again"
    if error_name == PICKLED_CODE:
        return (
            "a file of torch must hold nothing but tensors, numbers and texts, but it is damaged or holds code, which "
            f"does not run ({message[:_LONGEST_REASON]}): resume your own checkpoints only"
        )
    if error_name in WRONG_FIELDS:
        return " ".join(str(error.__cause__ or error).split())
    if not isinstance(error, USER_ERRORS):
        return None
    for words, meaning in _HUB_MEANINGS.items():
        if words in message:
            return meaning.format(absent=absent, present=present, any=" or ".join(models) or "the model")
    if isinstance(error, OSError) and error.strerror:
        return _system_sentence(error)
    return message or error_name


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


# A terminal obeys control characters, and marks that turn the direction of the text. Line feed and tab stay.
_CONTROLS = (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: _escape(code) for code in _CONTROLS if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """
    Makes the control characters of a text visible: a caption or a file name must not steer the terminal.

    >>> visible("a \x1b[31mred\x1b[0m dog")
    'a \\\\x1b[31mred\\\\x1b[0m dog'
    """
    return text.translate(_ESCAPES)


def masked(text: str) -> str:
    """
    Hides tokens of the Hub in a text that is shown or stored.

    >>> masked("--set training.hub_token=hf_abcdefghij0123")
    '--set training.hub_token=***'
    """
    return _TOKEN_SETTING.sub(r"\1***", _TOKEN.sub("hf_***", text))


def _names_by_presence(models: Sequence[str]) -> tuple[str, str]:
    """Names the models that are not local directories, and those that are, each as a part of a sentence."""
    absent = [name for name in models if not os.path.isdir(name)]
    present = [name for name in models if os.path.isdir(name)]
    return " or ".join(absent) or "the model", " or ".join(present) or "the model"


def _disk_error(message: str) -> OSError | None:
    """Returns the error of the operating system in the message of a library, if it is that of a disk."""
    match = _RUST_ERROR.search(message)
    if match is None or int(match.group(1)) not in _DISK_ERRORS:
        return None
    number = int(match.group(1))
    return OSError(number, os.strerror(number))


def _system_sentence(error: OSError) -> str:
    """Names the file, the message and the remedy of an error of the operating system, without its number."""
    file_name = str(error.filename or "")
    remedy = _REMEDIES.get(error.errno or 0, "")
    return ": ".join(part for part in (file_name, error.strerror, remedy) if part)
