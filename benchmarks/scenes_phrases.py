"""
The first picture of the README: where a small β-CLIP looks for phrases of generated scenes.

A plain CLIP that has seen 160,000 easy scenes is fine-tuned for 500 steps with all losses: β-CAL, mismatched negatives,
regions and hard negatives. Then two scenes that it has not seen are drawn.

    python -m benchmarks.study run --start scratch --arm plain --seed 0 --save runs/clip
    python benchmarks/scenes_phrases.py --clip runs/clip --model runs/phrases --output phrases.png
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from beta_clip_hf import (
    BetaCLIPDataCollator,
    BetaCLIPModel,
    BetaCLIPProcessor,
    BetaCLIPTrainer,
    BetaCLIPTrainingArguments,
    SceneDataset,
)
from beta_clip_hf.inference.look import look
from beta_clip_hf.visualize import plot_phrase_attention


IMAGE_SIZE = 64
# Scenes of another seed than the training's, and the phrases to draw of each.
SHOWN = {1: ["red square", "blue disc", "blue shape"], 2: ["yellow triangle", "green cross", "yellow shape"]}


def fine_tune(clip: str, output: Path, steps: int) -> None:
    """Fine-tunes a plain CLIP with every loss of the package, and saves it."""
    torch.manual_seed(0)
    model = BetaCLIPModel.from_pretrained(
        clip,
        pooler_num_attention_heads=2,
        use_regions=True,
        text_conditioned_loss_weight=1.0,
        region_loss_weight=1.0,
    )
    processor = BetaCLIPProcessor.from_pretrained(clip)
    arguments = BetaCLIPTrainingArguments(
        output_dir=str(output / "run"),
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=5e-4,
        learning_rate_end=1e-5,
        pooler_learning_rate=1e-3,
        pooler_learning_rate_end=1e-5,
        warmup_steps=20,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to="none",
    )
    collator = BetaCLIPDataCollator(processor, caption_mode="full", num_phrases=6, num_regions=4)
    rows = SceneDataset(32 * steps, seed=77, level="easy", image_size=IMAGE_SIZE)
    BetaCLIPTrainer(model, arguments, collator, train_dataset=rows, processing_class=processor).train()
    model.save_pretrained(output)
    processor.save_pretrained(output)


def draw(model_dir: Path, output: Path) -> None:
    """Draws the scenes of `SHOWN`, one below the other."""
    model = BetaCLIPModel.from_pretrained(model_dir).eval()
    processor = BetaCLIPProcessor.from_pretrained(model_dir)
    scenes = SceneDataset(1 + max(SHOWN), seed=7, level="easy", image_size=IMAGE_SIZE)
    strips = []
    for index, texts in SHOWN.items():
        row = scenes[index]
        boxes_of_text = {phrase["text"]: torch.tensor(phrase["boxes"]) / IMAGE_SIZE for phrase in row["phrases"]}
        maps = look(model, processor, row["image"], texts).maps()
        strip = output.with_name(f"{output.stem}-{index}.png")
        plot_phrase_attention(row["image"], texts, maps, strip, [boxes_of_text[text] for text in texts])
        strips.append(Image.open(strip).convert("RGB"))
        strip.unlink()
    picture = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        picture.paste(strip, (0, top))
        top += strip.height
    picture.save(output, optimize=True)


def main() -> None:
    """Trains, unless the model is there, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", help="directory of the plain CLIP to start from")
    parser.add_argument("--model", type=Path, required=True, help="directory of the fine-tuned model, made if missing")
    parser.add_argument("--steps", type=int, default=500, help="training steps of 32 scenes")
    parser.add_argument("--output", type=Path, default=Path("phrases.png"), help="file to write")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        fine_tune(arguments.clip, arguments.model, arguments.steps)
    draw(arguments.model, arguments.output)


if __name__ == "__main__":
    main()
