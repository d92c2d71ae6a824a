"""Plans the texts of a batch for the model that its processor belongs to."""

from typing import Any

from torch import Tensor

from ..model.batch_beta_clip import BatchTexts
from ..model.packing_beta_clip import plan_texts, text_lengths
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from ..model.text_rows_beta_siglip2 import plan_batch_rows


def plan_batch_texts(processor: Any, texts: BatchTexts, granularity_T: Tensor, **packing: Any) -> Any:
    """Plans how the texts are encoded, in the order in which the model encodes them.

    Args:
        processor: That of the batch, a `BetaCLIPProcessor` or a `BetaSiglip2Processor`.
        texts: The texts of the batch.
        granularity_T: (T,) the kind of each text of an image.
        packing: `capacity` and `row_multiple` of [`plan_texts`]. Texts of SigLIP 2, all of one length, are not packed.
    """
    if isinstance(processor, BetaSiglip2Processor):
        return plan_batch_rows(texts, granularity_T, processor)
    ids_TL = texts.joined()
    # Texts of the two paths have different positions, so they never share a packed row.
    is_long_T = None
    if processor.short_max_length is not None:
        is_long_T = texts.is_long(granularity_T)
    return plan_texts(ids_TL, text_lengths(ids_TL, processor.tokenizer.eos_token_id), is_long_T, **packing)
