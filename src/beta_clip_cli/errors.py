"""What an error tells a user: one sentence, and what to do where that is known."""

import errno
import os
from collections.abc import Sequence


# What a user can mend. Anything else is a fault of the program.
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)
# The same by name, of libraries that may not be there.
OUT_OF_MEMORY, DAMAGED = "OutOfMemoryError", "SafetensorError"
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
# Words of long messages of transformers and huggingface_hub, and what they mean. {0}: the models that were asked
# for and are no directories; {1}: those that are.
_OF_THE_HUB = {
    "couldn't connect to": "{0} cannot be downloaded, and is no directory here: check the path and the connection "
    "(beta-clip doctor says whether the Hub may be asked)",
    "is not a valid model identifier": "{0} is neither a directory here nor a model on the Hub that you may read: "
    "check the name, or log in with hf auth login",
    "Unrecognized model in": "{1} must be a model directory, whose config.json names a model_type, or a Hub id, but "
    "is neither",
    "gated repo": "{0} must be asked for on its page of the Hub first; then log in with hf auth login",
    "Error no file named": "a model must have its weights (model.safetensors) beside it, but has none: give one that "
    "beta-clip train or save_pretrained has written",
}


def sentence_of(error: BaseException, models: Sequence[str] = ()) -> str | None:
    """
    The message of an error on one line, with a remedy where one is known; `None` for a fault of the program.

    Args:
        error: As it was raised.
        models: Names of the models, tokenizers included, that the command was given. Not all libraries name the one
            that they could not load.
    """
    message = " ".join(str(error).split())
    absent = " or ".join(name for name in models if not os.path.isdir(name)) or "the model"
    present = " or ".join(filter(os.path.isdir, models)) or "the model"
    if type(error).__name__ == OUT_OF_MEMORY:
        return f"the memory of the device does not suffice, try a smaller --batch-size: {message}"
    if type(error).__name__ == DAMAGED:
        return f"the weights of {present} must be whole, but are not ({message}): copy or download them again"
    if not isinstance(error, USER_ERRORS):
        return None
    for words, meaning in _OF_THE_HUB.items():
        if words in message:
            return meaning.format(absent, present)
    if isinstance(error, OSError) and error.strerror:  # of the operating system: without its number
        remedy = _REMEDIES.get(error.errno or 0, "")
        return ": ".join(filter(None, (error.filename and str(error.filename), error.strerror, remedy)))
    return message or type(error).__name__
