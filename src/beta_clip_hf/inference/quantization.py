"""Makes embeddings smaller: fewer numbers, or numbers of 8 bits or of one bit."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length
from transformers.utils import logging


logger = logging.get_logger(__name__)

PRECISIONS = ("float32", "int8", "binary")
"""What [`quantize`] can make of embeddings."""
# With fewer rows the ranges of int8 depend on chance.
FEW_ROWS = 100


def check_precision(precision: str) -> None:
    """Raises `ValueError` for a precision that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but is {precision!r}")


def check_truncate_dim(truncate_dim: int | None, width: int) -> None:
    """Raises `ValueError` if embeddings of a width cannot be cut to `truncate_dim` numbers; `None` cuts nothing."""
    if truncate_dim is None:
        return
    is_number = isinstance(truncate_dim, int) and not isinstance(truncate_dim, bool)
    if not is_number or not 1 <= truncate_dim <= width:
        raise ValueError(
            f"truncate_dim must be a whole number from 1 to {width}, the width of the embeddings, but is {truncate_dim}"
        )


def truncate(embeds_MD: Tensor, truncate_dim: int | None, *, normalize: bool = True) -> Tensor:
    """
    Cuts embeddings to their first numbers.

    Args:
        embeds_MD: (M, D).
        truncate_dim: The numbers to keep; `None` returns the embeddings as they are.
        normalize: Whether what is left gets length 1 again.

    Raises:
        ValueError: if `truncate_dim` is not a number from 1 to D.
    """
    check_truncate_dim(truncate_dim, embeds_MD.shape[1])
    if truncate_dim is None or truncate_dim == embeds_MD.shape[1]:
        return embeds_MD
    first_MD = embeds_MD[:, :truncate_dim]
    return unit_length(first_MD, dim=-1) if normalize else first_MD.contiguous()


def quantize(embeds_MD: Tensor, precision: str, calibration_embeds_MD: Tensor | None = None) -> Tensor:
    """
    Rounds embeddings, number by number as `quantize_embeddings` of sentence-transformers does.

    - "float32" leaves them as they are.
    - "int8" cuts the range of each dimension into 256 steps of equal size, numbered from -128. Embeddings are
      comparable if they share their ranges: calibrate all of them with the same embeddings. What is outside of a range
      gets its first or last step.
    - "binary" keeps the signs: 8 numbers become the bits of one int8, the first in the highest bit, minus 128.

    Args:
        embeds_MD: (M, D) float32.
        precision: One of [`PRECISIONS`].
        calibration_embeds_MD: At least two embeddings of the same width, whose lowest and highest numbers are the
            ranges of "int8"; by default the embeddings themselves.

    Returns:
        On the CPU: (M, D) float32 or int8; for "binary" (M, ⌈D / 8⌉) int8.

    Raises:
        ValueError: if the precision is not known, or the embeddings of the calibration are fewer than two, are of
            another width, are no floats, or are not used.

    Source: sentence-transformers 6.2, `quantize_embeddings`.
    """
    check_precision(precision)
    if calibration_embeds_MD is not None and precision != "int8":
        raise ValueError(f"calibration_embeds must be left out for precision {precision!r}, but is given")
    embeds_MD = embeds_MD.detach().float().cpu()
    if precision == "float32":
        return embeds_MD
    if precision == "binary":
        # torch has no function that packs bits. The place of zero is moved, as int8 has a sign.
        bits = np.packbits(embeds_MD.numpy() > 0, axis=-1)
        return torch.from_numpy((bits.astype(np.int16) - 128).astype(np.int8))
    if len(embeds_MD) == 0:
        # There is nothing to calibrate with, and nothing to round.
        return embeds_MD.to(torch.int8)
    lowest_D, highest_D = _ranges(embeds_MD, calibration_embeds_MD)
    steps_D = (highest_D - lowest_D) / 255
    # A dimension that is the same everywhere has one step, of any size.
    steps_D[steps_D == 0] = 1
    step_MD = ((embeds_MD - lowest_D) / steps_D).floor().clamp(0, 255)
    return (step_MD - 128).to(torch.int8)


def _ranges(embeds_MD: Tensor, calibration_embeds_MD: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the lowest and the highest number of each dimension, (D,) each."""
    width = embeds_MD.shape[1]
    if calibration_embeds_MD is None:
        if len(embeds_MD) < 2:
            raise ValueError(
                "calibration_embeds must be given for precision 'int8' of a single embedding, but is missing"
            )
        if len(embeds_MD) < FEW_ROWS:
            logger.warning_once(
                f"The ranges of int8 come from {len(embeds_MD)} embeddings: pass calibration_embeds of {FEW_ROWS} or "
                "more, and the same for everything that is compared"
            )
        calibration_embeds_MD = embeds_MD
    calibration = torch.as_tensor(calibration_embeds_MD)
    if not calibration.is_floating_point() or calibration.ndim != 2 or len(calibration) < 2:
        raise ValueError(
            f"calibration_embeds must be two or more embeddings of floats, but is {calibration.dtype} of shape "
            f"{tuple(calibration.shape)}"
        )
    if calibration.shape[1] != width:
        raise ValueError(f"calibration_embeds must be {width} numbers wide, but is {calibration.shape[1]}")
    calibration = calibration.detach().float().cpu()
    if not calibration.isfinite().all():
        raise ValueError("calibration_embeds must be finite numbers, but some are NaN or infinite")
    return calibration.amin(dim=0), calibration.amax(dim=0)
