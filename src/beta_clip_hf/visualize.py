"""Pictures as PNG files: the curves of a run, where each phrase looks, what regions are taken for. matplotlib is loaded
when it is needed."""

import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate


# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":")  # beside the colours: a grey print tells curves apart too
INK, FAINT, GRID = "#222222", "#777777", "#E6E6E6"
# For phrases that the default font cannot write; used where they are installed.
FALLBACK_FONTS = ("Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS", "Microsoft YaHei", "PingFang SC")

LOSS_LABELS = {
    "loss": "total",
    "clip_loss": "CLIP loss",
    "short_clip_loss": "CLIP loss, short captions",
    "beta_cal_loss": "β-CAL loss",
}
RECALL_DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
TITLE_WIDTH, TITLE_LINES = 26, 3


def plot_training_curves(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """
    Losses, recall and learning rates over the steps of a run; a panel without data is left out.

    Args:
        log_history: The Trainer's `state.log_history`: records with `step` and any of `loss`, `*_loss`, `eval_*_r1`
            (R@k in [0, 1]) and `*learning_rate`.
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: where no record has anything to draw.
        ImportError: without matplotlib.
    """
    curves = _curves(log_history)
    losses = {name: curve for name, curve in curves.items() if name == "loss" or _is_loss_part(name)}
    recalls = {name: curve for name, curve in curves.items() if _is_recall(name)}
    rates = {name: curve for name, curve in curves.items() if name.endswith("learning_rate")}
    panels = [
        (draw, group)
        for draw, group in ((_draw_losses, losses), (_draw_recalls, recalls), (_draw_rates, rates))
        if group
    ]
    if not panels:
        raise ValueError(f"log_history must have losses, recalls or learning rates, but has {sorted(curves)}")
    figure = _figure(4.6 * len(panels), 4.2)
    for axes, (draw, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, group)
        _clean(axes)
    return _save(figure, path)


def plot_recall_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | os.PathLike[str]) -> Path:
    """
    R@k over k, a panel for each way.

    Args:
        curves: By name, as `long/cls/text_to_image`, whose last word is the way: pairs of k and recall in [0, 1]. That
            of `chance` is thin and grey.
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: without curves.
        ImportError: without matplotlib.
    """
    ways = list(dict.fromkeys(name.rpartition("/")[2] for name in curves))
    if not ways:
        raise ValueError("curves must be at least one, but there is none")
    figure = _figure(4.6 * len(ways), 4.2)
    highest = max(100 * recall for curve in curves.values() for _, recall in curve)
    for axes, way in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        of_way = {name.rpartition("/")[0]: curve for name, curve in curves.items() if name.rpartition("/")[2] == way}
        for (name, curve), colour, dashes in zip(of_way.items(), _cycle(COLOURS), _cycle(DASHES), strict=False):
            ks, recalls = zip(*curve, strict=True)
            style = {"color": FAINT, "linewidth": 1} if name.endswith("chance") else {"color": colour, "ls": dashes}
            axes.plot(ks, [100 * recall for recall in recalls], label=name, **style)
        axes.set(xscale="log", ylim=(0, 1.05 * highest), title=f"{way.replace('_', ' ')}, R@k in %")
        axes.set_xticks([1, 5, 10, 100], ["1", "5", "10", "100"])
        _clean(axes)
        axes.set_xlabel("k")
    return _save(figure, path)


def plot_phrase_attention(
    image: Image.Image,
    phrases: Sequence[str],
    attention_maps: Tensor,
    path: str | os.PathLike[str],
    boxes: Sequence[Any] | None = None,
) -> Path:
    """
    The image, then the same image once per phrase under the phrase's heat map, with the phrase's boxes if given. One
    colour scale for all phrases, in multiples of what a uniform map would have: up to 1 the image stays grey.

    Args:
        image: What the model sees: where the processor crops, `image.crop(view_of_image(...))`.
        phrases: N texts, any script; long ones are wrapped and cut.
        attention_maps: (N, H, W), not negative; a map that is zero everywhere is drawn as uniform.
        path: Where the PNG goes; its directory is made.
        boxes: For each phrase (M, 4) boxes, xyxy in units of the image's sides.

    Returns:
        `path`.

    Raises:
        ValueError: where phrases, maps and boxes are not as many, there is none, or a map is negative or NaN.
        ImportError: without matplotlib.
    """
    maps_NHW = _relative_to_uniform(torch.as_tensor(attention_maps).detach().float().cpu())
    boxes = [[]] * len(phrases) if boxes is None else boxes
    if not len(phrases) == len(maps_NHW) == len(boxes):
        raise ValueError(
            f"phrases, attention_maps and boxes must be as many as each other, but are {len(phrases)}, "
            f"{len(maps_NHW)}, {len(boxes)}"
        )
    columns = min(len(phrases) + 1, 4)
    rows = -(-(len(phrases) + 1) // columns)
    fonts = _fonts()
    titles = [_wrapped(phrase) for phrase in phrases]
    title_height = 0.2 * max(title.count("\n") + 1 for title in titles)
    figure = _figure(2.7 * columns + 0.9, rows * (2.7 * image.height / image.width + title_height) + 0.3)
    tiles = figure.subplots(rows, columns, squeeze=False)
    for axes in tiles.flat:
        axes.set_axis_off()
    tiles.flat[0].imshow(image)
    tiles.flat[0].set_title("image", fontsize=10, color=FAINT)
    highest = max(1.25, float(maps_NHW.max()))  # a map that is all but uniform is to look like one
    for axes, title, heat_HW, phrase_boxes in zip(tiles.flat[1:], titles, maps_NHW, boxes, strict=False):
        heat = _draw_heat(axes, image, heat_HW, highest)
        _draw_boxes(axes, image, phrase_boxes)
        axes.set_title(title, fontsize=10, color=INK, parse_math=False, fontfamily=fonts)
    bar = figure.colorbar(heat, ax=list(tiles.flat), shrink=0.8, aspect=30, pad=0.015)
    bar.set_label("attention, × uniform", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, length=0)
    return _save(figure, path)


def plot_region_choices(
    image: Image.Image,
    boxes: Any,
    texts: Sequence[Sequence[str]],
    probabilities: Sequence[Any],
    path: str | os.PathLike[str],
) -> Path:
    """
    The image with its regions, numbered, and beside it what each region is taken for: its true text and its negatives,
    with a bar for the probability of each. The true text is in bold; a wrong first choice is hatched.

    Args:
        image: What the model sees.
        boxes: (R, 4), xyxy in units of the image's sides.
        texts: Per region its true text, then its negatives, any number of them.
        probabilities: Per region and text, in [0, 1].
        path: Where the PNG goes; its directory is made.

    Returns:
        `path`.

    Raises:
        ValueError: where boxes, texts and probabilities are not as many as each other, or there is no region.
        ImportError: without matplotlib.
    """
    boxes_R4 = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    lengths = [len(of_region) for of_region in texts]
    if len(boxes_R4) != len(lengths) or [len(of_region) for of_region in probabilities] != lengths or not lengths:
        raise ValueError(
            f"boxes, texts and probabilities must be as many as each other, but are {len(boxes_R4)}, {lengths}, "
            f"{[len(of_region) for of_region in probabilities]}"
        )
    columns = min(2, len(lengths))
    rows = -(-len(lengths) // columns)
    height = rows * (0.24 * max(lengths) + 0.5)
    figure = _figure(4.4 * columns + 3.6, max(height, 3.4))
    left, right = figure.subfigures(1, 2, width_ratios=[3.4, 4.4 * columns])
    axes = left.subplots()
    axes.imshow(image)
    axes.set_axis_off()
    panels = right.subplots(rows, columns, squeeze=False).flat
    fonts = _fonts()
    for number, (panel, colour) in enumerate(zip(panels, _cycle(COLOURS), strict=False)):
        if number < len(lengths):
            _draw_numbered_box(axes, image, boxes_R4[number].tolist(), number + 1, colour)
            _draw_choices(panel, texts[number], list(map(float, probabilities[number])), number + 1, colour, fonts)
        else:
            panel.set_axis_off()
    return _save(figure, path)


def _draw_choices(
    axes: Any, texts: Sequence[str], probabilities: list[float], number: int, colour: str, fonts: list[str]
) -> None:
    best = max(range(len(texts)), key=probabilities.__getitem__)
    bars = axes.barh(range(len(texts)), probabilities, height=0.72, color=[colour, *["#BBBBBB"] * (len(texts) - 1)])
    if best:
        bars[best].set_hatch("////")
    axes.set_yticks(range(len(texts)), [_wrapped(text).split("\n")[0] for text in texts], parse_math=False)
    for place, label in enumerate(axes.get_yticklabels()):
        label.set(fontweight="bold" if place == 0 else "normal", color=INK if place in (0, best) else FAINT)
        label.set(fontsize=8.5, fontfamily=fonts)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.tick_params(axis="x", colors=FAINT, labelsize=8, length=0)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(f"region {number}", loc="left", color=colour, fontsize=10, fontweight="bold")


def _draw_numbered_box(axes: Any, image: Image.Image, box: list[float], number: int, colour: str) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    x1, y1, x2, y2 = box
    corner = (x1 * image.width - 0.5, y1 * image.height - 0.5)
    size = ((x2 - x1) * image.width, (y2 - y1) * image.height)
    rectangle = Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2.2)
    rectangle.set_path_effects([Stroke(linewidth=4.2, foreground="white"), Normal()])
    axes.add_patch(rectangle)
    label = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "white"}
    axes.text(*corner, str(number), color="white", fontsize=9, fontweight="bold", bbox=label)


def _draw_losses(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Training loss")
    for colour, (name, (steps, values)) in zip(_cycle(COLOURS), curves.items(), strict=False):
        label = LOSS_LABELS.get(name, name.replace("_", " "))
        axes.plot(steps, values, color=INK if name == "loss" else colour, linewidth=1.6, label=label, **_dots(steps))


def _draw_recalls(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Recall on the evaluation set")
    for name, (steps, values) in curves.items():
        *words, direction, k = name.removeprefix("eval_").split("_")
        colour = BLUE if direction == "i2t" else VERMILION
        style = {"r1": "-", "r5": "--", "r10": ":"}.get(k, "-.")
        label = " ".join([*words, RECALL_DIRECTIONS[direction], f"R@{k[1:]}"])
        axes.plot(steps, [100 * v for v in values], style, color=colour, linewidth=1.6, label=label, **_dots(steps))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def _draw_rates(axes: Any, curves: Mapping[str, Any]) -> None:
    _title(axes, "Learning rate")
    for colour, (name, (steps, values)) in zip(_cycle(COLOURS), curves.items(), strict=False):
        label = name.removesuffix("learning_rate").strip("_").replace("_", " ") or "towers"
        positive = [value if value > 0 else float("nan") for value in values]  # a warm-up starts at 0
        axes.plot(steps, positive, color=colour, linewidth=1.6, label=label, **_dots(steps))
    axes.set_yscale("log")


def _draw_heat(axes: Any, image: Image.Image, heat_HW: Tensor, highest: float) -> Any:
    """The image in grey under the heat map: viridis, transparent up to 1 (uniform), nearly opaque at `highest`."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shades = colormaps["viridis"](torch.linspace(0, 1, 256).numpy())
    shades[:, 3] = torch.linspace(0, 0.9, 256).numpy()
    axes.imshow(image.convert("L"), cmap="gray", vmin=-64, vmax=255)
    fine = interpolate(heat_HW[None, None], size=(image.height, image.width), mode="bicubic", align_corners=False)[0, 0]
    return axes.imshow(fine.clamp(min=1).numpy(), cmap=ListedColormap(shades), vmin=1, vmax=highest)


def _draw_boxes(axes: Any, image: Image.Image, boxes: Any) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    for x1, y1, x2, y2 in torch.as_tensor(boxes).reshape(-1, 4).tolist():
        corner = (x1 * image.width - 0.5, y1 * image.height - 0.5)
        size = ((x2 - x1) * image.width, (y2 - y1) * image.height)
        box = Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1.6)
        box.set_path_effects([Stroke(linewidth=3.2, foreground="black"), Normal()])
        axes.add_patch(box)


def _curves(log_history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """By name, the steps at which a number was logged and its values."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for record in log_history:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and "step" in record:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return curves


def _is_loss_part(name: str) -> bool:
    return name.endswith("_loss") and not name.startswith(("eval_", "train_"))


def _is_recall(name: str) -> bool:
    *_, direction, k = ("", *name.split("_"))
    return name.startswith("eval_") and direction in RECALL_DIRECTIONS and k[:1] == "r" and k[1:].isdigit()


def _relative_to_uniform(maps_NHW: Tensor) -> Tensor:
    if maps_NHW.ndim != 3 or len(maps_NHW) == 0:
        raise ValueError(f"attention_maps must be (phrases, height, width), but is {tuple(maps_NHW.shape)}")
    if not (maps_NHW >= 0).all():
        raise ValueError("attention_maps must not be negative or NaN, but at least one value is")
    mean_N11 = maps_NHW.mean(dim=(1, 2), keepdim=True)
    return torch.where(mean_N11 > 0, maps_NHW / mean_N11.clamp(min=torch.finfo(torch.float32).tiny), 1.0)


def _wrapped(phrase: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in phrase)
    return "\n".join(textwrap.wrap(printable, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")) or " "


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=11, fontweight="bold")


def _clean(axes: Any) -> None:
    axes.set_xlabel("step", color=FAINT)
    axes.tick_params(colors=FAINT, labelsize=9, length=0, which="both")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    # Under the panel: inside, a legend of many curves would lie on some of them.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 2}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6, **place)


def _fonts() -> list[str]:
    from matplotlib.font_manager import get_font_names

    return ["DejaVu Sans", *sorted(set(FALLBACK_FONTS) & set(get_font_names()), key=FALLBACK_FONTS.index)]


def _cycle(colours: Sequence[str]) -> Any:
    return (colours[index % len(colours)] for index in range(10**6))


def _dots(steps: Sequence[float]) -> dict[str, Any]:
    """Markers where there are so few points that a line alone would hide them."""
    return {"marker": "o", "markersize": 3.5} if len(steps) <= 12 else {}


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "beta-clip-hf[eval]"') from error
    # No pyplot: that would choose a backend for the whole process, and keep every figure.
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)  # inches
    figure = Figure(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing"
        )  # a script that no font here has: boxes, no failure
        figure.savefig(path, facecolor="white")
    return path
