# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""`model.encode(…)`: images or texts as they are in, embeddings out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .similar_names_beta_clip import did_you_mean


# Does the work of `encode`. The package sets it when it is imported: the code that a checkpoint brings along has no
# embedder, and leaves it at `None`.
encoder: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class EncodingSettings:
    """Holds the options of [`EncodingModel.encode`]."""

    processor: Any = None
    path: str | None = None
    batch_size: int = 32
    normalize: bool = True
    truncate_dim: int | None = None
    precision: str = "float32"
    calibration_embeds: Any = None
    show_progress_bar: bool = False


class EncodingModel:
    """Gives a model `encode`."""

    def encode(
        self,
        *unnamed: Any,
        images: Any = None,
        texts: Any = None,
        processor: Any = None,
        path: str | None = None,
        batch_size: int = 32,
        normalize: bool = True,
        truncate_dim: int | None = None,
        precision: str = "float32",
        calibration_embeds: Any = None,
        show_progress_bar: bool = False,
        **unknown: Any,
    ) -> Tensor:
        r"""
        Embeds images or texts: reads, processes and encodes them in batches, without gradients and without dropout.

        Args:
            images: An image, or M images: PIL images, paths, bytes of image files, arrays or tensors. All that
                the model's processor takes.
            texts: A text, or M texts. Equal texts are encoded once.
            processor (*optional*): The processor; by default the one that was saved beside the model.
            path (`"short" | "long" | "box"`, *optional*): The path of the texts, as in `get_text_features`.
            batch_size: Number of images or texts in a batch.
            normalize: Whether embeddings get length 1, so that their products are cosines.
            truncate_dim (*optional*): Keeps the first numbers of each embedding only, before it is normalised.
            precision: "float32"; "int8" (a quarter of the bytes) or "binary" (a 32nd: the signs, 8 in an int8), as
                `quantize_embeddings` of sentence-transformers makes them.
            calibration_embeds (`Tensor` of shape `(N, D)`, *optional*):
                For "int8": the float embeddings whose ranges are cut into 256 steps, 100 or more. What is compared must
                share them. By default the embeddings themselves.
            show_progress_bar: Whether to show how far it is.

        Returns:
            On the CPU `(M, D)` float32 or int8, or `(M, ⌈D / 8⌉)` int8 for "binary"; `(D,)` for a single image or text.

        Raises:
            ValueError: If there are not either images or texts, one of them cannot be read, an option is out of range,
                or `processor` is left out and none is found beside the model.
            TypeError: If images or texts come without a name, or an argument is not known.
            ImportError: If the model comes from the code that its directory carries, without the package.

        Example: `model.encode(images=["a.jpg", "b.jpg"]) @ model.encode(texts="a dog")` are two cosines.
        """
        if unnamed:
            raise TypeError(
                f"encode takes images=… or texts=… by name, but was given {type(unnamed[0]).__name__} without one"
            )
        for name in unknown:
            similar = did_you_mean(name, {"images", "texts", *EncodingSettings.__dataclass_fields__})
            raise TypeError(f"encode got an unexpected argument {name!r}{similar}")
        if encoder is None:
            raise ImportError(
                "encode must be called on a model of the package beta-clip-hf, but this one is made by the code of its "
                f"directory: pip install beta-clip-hf and load it with beta_clip_hf.{type(self).__name__}, or call "
                "its processor, get_image_features and get_text_features"
            )
        settings = EncodingSettings(
            processor=processor,
            path=path,
            batch_size=batch_size,
            normalize=normalize,
            truncate_dim=truncate_dim,
            precision=precision,
            calibration_embeds=calibration_embeds,
            show_progress_bar=show_progress_bar,
        )
        return encoder(self, images, texts, settings)


__all__ = ["EncodingModel", "EncodingSettings"]
