"""
The commands of `beta-clip`.

A command is a module of this package with `add_arguments(parser)` and `run(args) -> int`, which returns the exit code.
It imports the library inside of `run`, so that its help appears without the seconds that importing torch takes.
"""

from typing import NamedTuple


MODELS = ("MODEL", "BASE", "TUNED")
"""The metavars of arguments that name a model."""


class Command(NamedTuple):
    """A command: its words, its module, and the texts of its help."""

    words: tuple[str, ...]
    """The words on the command line, for example ("convert", "b-clip")."""
    summary: str
    """One sentence about what the command does."""
    example: str
    """A call of the command, the last line of its help."""

    @property
    def module(self) -> str:
        """The name of the module, for example `beta_clip_cli.convert_b_clip`."""
        name = "_".join(self.words).replace("-", "_")
        return f"{__package__}.{name}"


COMMANDS = (
    Command(
        ("train",),
        "Train or fine-tune a model on your images and captions.",
        "beta-clip train photos.jsonl --model openai/clip-vit-base-patch16 --output runs/photos",
    ),
    Command(
        ("evaluate",),
        "Measure a model on benchmarks or on your photos.",
        "beta-clip evaluate --model runs/photos --tasks photos --data photos.jsonl --output runs/photos/evaluation",
    ),
    Command(
        ("hierarchy",),
        "Extract the sentences and phrases of all captions once, before training.",
        "beta-clip hierarchy photos.jsonl --output photos_hierarchy --shard 0/4",
    ),
    Command(
        ("compare",),
        "Compare the results of two models on the same data, with intervals for the differences.",
        "beta-clip compare runs/before/evaluation runs/photos/evaluation",
    ),
    Command(
        ("convert", "b-clip"),
        "Turn a checkpoint of the β-CLIP authors into a model directory.",
        "beta-clip convert b-clip checkpoint.pt converted --tokenizer openai/clip-vit-base-patch16",
    ),
    Command(
        ("convert", "fg-clip"),
        "Turn a checkpoint of FG-CLIP into a model directory, or back.",
        "beta-clip convert fg-clip qihoo360/fg-clip-base converted",
    ),
    Command(
        ("convert", "fg-clip2"),
        "Turn a checkpoint of FG-CLIP 2 into a model directory, or back.",
        "beta-clip convert fg-clip2 qihoo360/fg-clip2-base converted",
    ),
    Command(
        ("export", "clip"),
        "Write a model as a plain CLIPModel, for programs without this package.",
        "beta-clip export clip runs/photos exported",
    ),
    Command(
        ("export", "siglip2"),
        "Write a model on SigLIP 2 towers as a plain Siglip2Model, for programs without this package.",
        "beta-clip export siglip2 runs/beta_siglip2 exported",
    ),
    Command(
        ("export", "onnx"),
        "Write a model as ONNX graphs or torch.export programs, for programs without transformers.",
        "beta-clip export onnx runs/photos exported --dtype float16",
    ),
    Command(
        ("export", "merged"),
        "Merge a LoRA adapter into its base model and write the whole model.",
        "beta-clip export merged runs/lora merged",
    ),
    Command(
        ("interpolate",),
        "Average the weights of a fine-tuned model and its base, to keep what the base knew.",
        "beta-clip interpolate openai/clip-vit-base-patch16 runs/photos runs/mixed --alpha 0 0.25 0.5 0.75 1 "
        "--tasks photos --data photos.jsonl",
    ),
    Command(
        ("index",),
        "Make a searchable index of a photo collection, or update one.",
        "beta-clip index photos/ --output photos.index --model runs/photos",
    ),
    Command(
        ("search",),
        "Search an index by texts and images.",
        'beta-clip search photos.index "a dog in a red coat on a beach" --top 20 --rerank 200 --html found.html',
    ),
    Command(
        ("show",),
        "Draw where each phrase of a text looks in an image, and score regions.",
        'beta-clip show --model runs/photos --image photo.jpg --text "A dog in a red coat. Dunes are behind it."',
    ),
    Command(
        ("demo",),
        "Open a page in the browser to search photos, see where phrases look, and compare captions.",
        "beta-clip demo --photos photos/ --model runs/photos",
    ),
    Command(
        ("push",),
        "Upload a model to the Hub with its processor, code, results and model card.",
        "beta-clip push runs/photos my-name/photos --license cc-by-nc-4.0",
    ),
    Command(
        ("doctor",),
        "Say what is installed, what is missing, and what the hardware can do.",
        "beta-clip doctor --json",
    ),
    Command(
        ("completion",),
        "Print a completion script for your shell.",
        'eval "$(beta-clip completion bash)"',
    ),
)
GROUPS = {
    "convert": "Turn a checkpoint of the papers' authors into a model directory.",
    "export": "Write a model in a format for other programs.",
}
"""The first words that several commands share, with what these commands do."""
