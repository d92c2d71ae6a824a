"""Lets captions of a batch begin at a later position, so that short texts train the positions of long ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..model.configuration_beta_clip import Granularity


def pad_prefixes(batch: dict[str, Any], starts: Sequence[float | None], *, max_length: int, tokenizer: Any) -> None:
    """Puts padding between the first token of captions and their words, in place.

    With k free positions behind the caption, `int(start · (k + 1))` tokens of padding are inserted: 0 to k, all equally
    likely if `start` is uniform. The negatives of a caption are moved as far as it, so that the longest of them counts.
    The model takes the padding for ordinary tokens: they have positions, and all later tokens attend to them.

    Args:
        batch: A flat batch of [`BetaCLIPProcessor`], with negatives or without.
        starts: For each image a number from 0 up to and without 1, or `None` for a caption that stays as it is.
        max_length: Positions of the path that captions take.
        tokenizer: The tokenizer of the texts. The padding is the one that OpenAI's tokenizer uses, id 0, unless the
            tokenizer pads with an id of its own that is not EOS: EOS would end the text.

    Source: DeBias-CLIP (arXiv 2602.22419), which pads the token sequence of long captions.
    """
    lengths_T = batch["attention_mask"].sum(dim=1)
    longest_T = lengths_T
    negative_text_index_n = batch.get("negative_text_index")
    if negative_text_index_n is not None:
        lengths_n = batch["negative_attention_mask"].sum(dim=1)
        longest_T = lengths_T.scatter_reduce(0, negative_text_index_n, lengths_n, "amax")
    shift_T = torch.zeros_like(lengths_T)
    for caption in (batch["granularity"] == Granularity.CAPTION).nonzero()[:, 0].tolist():
        start = starts[int(batch["image_index"][caption])]
        if start is not None:
            num_free = max(0, max_length - int(longest_T[caption]))
            shift_T[caption] = int(start * (num_free + 1))

    input_ids, attention_mask = _shifted(batch["input_ids"], lengths_T, shift_T, tokenizer)
    batch.update(input_ids=input_ids, attention_mask=attention_mask)
    if negative_text_index_n is not None and len(negative_text_index_n) > 0:
        shift_n = shift_T[negative_text_index_n]
        input_ids, attention_mask = _shifted(batch["negative_input_ids"], lengths_n, shift_n, tokenizer)
        batch.update(negative_input_ids=input_ids, negative_attention_mask=attention_mask)


def _shifted(ids_TL: Tensor, lengths_T: Tensor, shift_T: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Returns ids and attention mask of texts whose tokens behind the first one are moved to the right."""
    padding_id = tokenizer.pad_token_id or 0
    prefix_id = 0 if padding_id == tokenizer.eos_token_id else padding_id
    new_lengths_T = lengths_T + shift_T
    position_L = torch.arange(int(new_lengths_T.max()))
    source_TL = (position_L - shift_T[:, None]).clamp(0, ids_TL.shape[1] - 1)
    is_token_TL = position_L < new_lengths_T[:, None]
    is_prefix_TL = (position_L > 0) & (position_L <= shift_T[:, None])
    new_ids_TL = ids_TL.gather(1, source_TL).masked_fill(is_prefix_TL, prefix_id)
    return new_ids_TL.masked_fill(~is_token_TL, padding_id), is_token_TL.to(torch.int64)
