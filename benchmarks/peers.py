"""Compares the plain CLIP step, and the encoding of texts and images, with other libraries.

    python benchmarks/peers.py                                      # a small model, minutes
    python benchmarks/peers.py --preset full --batch-size 16        # ViT-B/16

All have towers of the same sizes, captions of generated scenes and their images. The step is the loss, its gradients
and one step of AdamW. transformers and sentence-transformers start from the very weights of the package, and must give
its loss and its embeddings. open_clip has weights of its own. The package packs the captions of a batch, open_clip pads
them to all positions, the others to the longest. A library that is not installed is left out, and the table says so.

All run in turn in one process, and ratios are of runs of the same round.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from report import OUTPUT, format_spread, markdown_table, put_into_page, spread, write_report
from step_costs import count_flops
from torch import Tensor
from torch.nn.functional import cross_entropy
from training_step import PRESETS, ratios
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from beta_clip_hf import BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.tokenizers import train_clip_tokenizer


PACKAGE = "this package"
SENTENCE_TRANSFORMERS = "sentence-transformers"
MODULES = {SENTENCE_TRANSFORMERS: "sentence_transformers", "open_clip": "open_clip"}
ENCODED_AT_ONCE = 32
# The package would stretch the 77 positions of CLIP, and texts of more than 20 tokens would have other embeddings.
POSITIONS = 128
TASKS = {"step": "a training step", "texts": "texts encoded", "images": "images encoded"}


@dataclass(frozen=True)
class Data:
    """Holds the directory of the model that all start from, and what is learnt from and encoded."""

    folder: Path
    processor: BetaCLIPProcessor
    rows: list[dict[str, Any]]
    batch_size: int

    @property
    def captions(self) -> list[str]:
        """All captions."""
        return [row["caption"] for row in self.rows]

    @property
    def images(self) -> list[Image.Image]:
        """All images."""
        return [row["image"] for row in self.rows]


def make_data(preset: str, batch_size: int, num_encoded: int, folder: Path) -> Data:
    """Draws scenes, and saves a CLIP of a preset with random weights."""
    sizes = PRESETS[preset]["config"]
    image_size = CLIPConfig(**sizes).vision_config.image_size
    scenes = SceneDataset(max(num_encoded, batch_size), level="easy", image_size=image_size)
    rows = [scenes[index] for index in range(len(scenes))]
    tokenizer = train_clip_tokenizer([row["caption"] for row in rows], vocab_size=600)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text_config = {**sizes.get("text_config", {}), **ids, "vocab_size": len(tokenizer)}
    text_config["max_position_embeddings"] = POSITIONS
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**{**sizes, "text_config": text_config})).save_pretrained(folder)
    tokenizer.model_max_length = POSITIONS
    processor = BetaCLIPProcessor.from_image_size(tokenizer, image_size)
    CLIPProcessor(processor.image_processor, tokenizer).save_pretrained(folder)
    return Data(folder, BetaCLIPProcessor.from_pretrained(folder), rows, batch_size)


def training_step(model: Any, loss: Callable[[], Tensor]) -> Callable[[Any], Tensor]:
    """Returns a step of AdamW. It takes a mark, as the steps of the other benchmarks do, and does not call it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(mark: Any = None) -> Tensor:
        model.train()
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def chunks(items: list[Any]) -> list[list[Any]]:
    """Cuts a list into batches for encoding."""
    return [items[start : start + ENCODED_AT_ONCE] for start in range(0, len(items), ENCODED_AT_ONCE)]


def package(data: Data) -> dict[str, Callable[..., Tensor]]:
    """Returns what this package does."""
    model = BetaCLIPModel.from_pretrained(data.folder, use_pooler=False)
    batch = dict(BetaCLIPDataCollator(data.processor, caption_mode="caption_only")(data.rows[: data.batch_size]))
    batch["return_loss"] = True
    encode = partial(model.encode, processor=data.processor, batch_size=ENCODED_AT_ONCE, show_progress_bar=False)
    return {
        "step": training_step(model, lambda: model(**batch).loss),
        "texts": lambda: encode(texts=data.captions),
        "images": lambda: encode(images=data.images),
    }


def transformers(data: Data) -> dict[str, Callable[..., Tensor]]:
    """Returns what a `CLIPModel` does, in batches that are padded to their longest text."""
    model, processor = CLIPModel.from_pretrained(data.folder), CLIPProcessor.from_pretrained(data.folder)
    rows = data.rows[: data.batch_size]
    captions, images = [row["caption"] for row in rows], [row["image"] for row in rows]
    batch = processor(text=captions, images=images, padding=True, return_tensors="pt")

    def encode(items: list[Any], name: str, get: Callable[..., Any], **options: Any) -> Tensor:
        model.eval()
        embeds = []
        with torch.no_grad():
            for chunk in chunks(items):
                inputs = processor(**{name: chunk}, return_tensors="pt", **options)
                embeds.append(get(**inputs).pooler_output)
        return torch.nn.functional.normalize(torch.cat(embeds), dim=-1)

    return {
        "step": training_step(model, lambda: model(**batch, return_loss=True).loss),
        "texts": lambda: encode(data.captions, "text", model.get_text_features, padding=True),
        "images": lambda: encode(data.images, "images", model.get_image_features),
    }


def sentence_transformers(data: Data) -> dict[str, Callable[..., Tensor]]:
    """Returns what a `SentenceTransformer` of the same directory does, with its symmetric loss of pairs."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(data.folder), device="cpu")
    rows = data.rows[: data.batch_size]
    features = []
    for name in ("image", "caption"):
        features.append(model.preprocess([row[name] for row in rows]))
    scale = CLIPModel.from_pretrained(data.folder).logit_scale.exp().item()
    directions = ("query_to_doc", "doc_to_query")
    loss = MultipleNegativesRankingLoss(model, scale=scale, directions=directions, partition_mode="per_direction")

    def forward() -> Tensor:
        # The towers add their outputs to what they are given.
        return loss([dict(inputs) for inputs in features], torch.empty(0))

    encode = partial(
        model.encode, batch_size=ENCODED_AT_ONCE, convert_to_tensor=True, normalize_embeddings=True,
        show_progress_bar=False,
    )  # fmt: skip
    return {
        "step": training_step(model, forward),
        "texts": lambda: encode(data.captions),
        "images": lambda: encode(data.images),
    }


def open_clip(data: Data) -> dict[str, Callable[..., Tensor]]:
    """Returns the step of an open_clip model of the same sizes."""
    import open_clip as library

    config = CLIPConfig.from_pretrained(data.folder)
    vision, text = config.vision_config, config.text_config
    model = library.CLIP(
        embed_dim=config.projection_dim,
        vision_cfg={
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        text_cfg={
            "context_length": POSITIONS,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
        quick_gelu=True,
    )
    rows = data.rows[: data.batch_size]
    texts = data.processor.tokenizer(
        [row["caption"] for row in rows], padding="max_length", max_length=POSITIONS, truncation=True,
        return_tensors="pt",
    )["input_ids"]  # fmt: skip
    pixels = data.processor.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]

    def loss() -> Tensor:
        image_BD, text_BD, scale = model(pixels, texts)[:3]
        logits_BB = scale * image_BD @ text_BD.T
        labels_B = torch.arange(len(rows))
        return (cross_entropy(logits_BB, labels_B) + cross_entropy(logits_BB.T, labels_B)) / 2

    return {"step": training_step(model, loss)}


LIBRARIES = {
    PACKAGE: package,
    "transformers": transformers,
    SENTENCE_TRANSFORMERS: sentence_transformers,
    "open_clip": open_clip,
}


def check_equal(name: str, task: str, found: Tensor, expected: Tensor) -> None:
    """
    Checks that a library that has the package's weights computes what the package does.

    Raises:
        AssertionError: if it does not; the message names library and task.
    """
    if name != "open_clip":
        torch.testing.assert_close(
            found.float(), expected, rtol=1e-4, atol=1e-4, msg=lambda text: f"{name}, {task}: {text}"
        )


def measure(data: Data, rounds: int) -> dict[str, Any]:
    """Returns seconds, operations and ratios by task and library, and why libraries are left out."""
    libraries, left_out = {}, {}
    for name, make in LIBRARIES.items():
        if name in MODULES and find_spec(MODULES[name]) is None:
            left_out[name] = "is not installed"
            continue
        libraries[name] = make(data)
    tasks: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        runs = {name: library[task] for name, library in libraries.items() if task in library}
        results = {name: run() for name, run in runs.items()}
        for name, result in results.items():
            check_equal(name, task, result, results[PACKAGE])
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        tasks[task] = {}
        for name, run in runs.items():
            tasks[task][name] = {
                "seconds": spread(seconds[name]),
                "of_the_package": ratios(seconds[name], seconds[PACKAGE]),
                "flops": count_flops(run)[1] if task == "step" else None,
            }
    return {"tasks": tasks, "left_out": left_out}


def markdown(results: dict[str, Any]) -> str:
    """Formats the table."""
    rows = []
    for task, libraries in results["tasks"].items():
        for name, found in libraries.items():
            flops = "" if found["flops"] is None else f"{found['flops'] / 1e9:,.1f}"
            milliseconds = {key: 1000 * value for key, value in found["seconds"].items()}
            share = format_spread(found["of_the_package"])
            rows.append([TASKS[task], name, format_spread(milliseconds, 0), share, flops])
    columns = ("", "library", "ms (spread)", "time, of this package's", "GFLOP")
    notes = [f"{name} {reason}." for name, reason in results["left_out"].items()]
    return "\n\n".join([markdown_table(columns, rows), *notes])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", choices=list(PRESETS), help="size of the model (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs of a step (%(default)s)")
    parser.add_argument("--encoded", type=int, default=256, help="texts and images that are encoded (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for JSON and table (%(default)s)")
    parser.add_argument("--page", type=Path, help="page into which the table goes too, as docs/performance.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(args.preset, args.batch_size, args.encoded, Path(folder))
        results = measure(data, args.rounds)
    title = f"Plain CLIP of {args.batch_size} pairs a step, {args.encoded} texts and images, {args.rounds} rounds"
    path = args.output / f"peers_{args.preset}"
    write_report(path, title, markdown(results), results, settings=vars(args))
    if args.page is not None:
        put_into_page(args.page, f"peers, {args.preset}", path.with_name(f"{path.name}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
