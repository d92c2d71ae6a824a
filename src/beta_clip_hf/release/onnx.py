"""A model as ONNX graphs or `torch.export` programs, for use without this package and transformers."""

import argparse
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..files import write_json
from ..inference.models import load_model
from ..model.configuration_beta_clip import TEXT_PATHS
from ..model.modeling_beta_clip import BetaCLIPModel
from ..version import __version__
from .directories import check_output
from .graphs import Graph, RegionGraph, graphs_of


logger = logging.getLogger(__name__)

FORMATS = {"onnx": "onnx", "torch": "pt2"}  # and their files' suffixes
DTYPES = ("float32", "float16", "int8")
# Of float32 graphs and the model, relative to the largest value where that is above 1.
TOLERANCE = 1e-4
# A file of protobuf holds 2 GiB. Weights beyond this lie in a file of their own beside the graph.
MOST_BYTES_INSIDE = 2**31 - 2**24


def export_graphs(
    source: str | Path, output_dir: str | Path, *, format: str = "onnx", dtype: str = "float32", path: str | None = None
) -> dict[str, Any]:
    r"""
    Writes a model as one graph for each part, `tokenizer.json`, and `export.json`, which says how to use them.

    Each graph is run on four generated scenes, and compared with the model in float32; `export.json` says how they
    agree.

    Args:
        source: directory or Hub id of a β-CLIP, an FG-CLIP or a plain CLIP, with its processor.
        output_dir: where to write.
        format: `"onnx"`, or `"torch"` for the programs of `torch.export` (`.pt2`).
        dtype:
            of the weights of ONNX graphs: `"float32"`, `"float16"`, or `"int8"` (of matrices and tables of embeddings;
            activations are quantised as they come). Inputs and outputs are float32 in all of them.
        path: the text path of a model with two: `"long"` (the default) or `"short"`. Other models take `None` only.

    Returns:
        What `export.json` holds.

    Raises:
        ValueError: for an unknown format or dtype, a model of another kind or without such a path, the source as the
            output, or a float32 graph that disagrees with the model.
        ImportError: without onnx, onnxruntime or onnxscript.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {tuple(FORMATS)}, but is {format!r}")
    allowed = DTYPES if format == "onnx" else DTYPES[:1]
    if dtype not in allowed:
        raise ValueError(f"dtype must be one of {allowed} for the format {format!r}, but is {dtype!r}")
    if format == "onnx":
        _import_onnx()
    check_output(output_dir, source)
    model, processor, _ = load_model(str(source), torch.device("cpu"))
    if not isinstance(model, BetaCLIPModel):
        raise ValueError(f"model must be a β-CLIP, an FG-CLIP or a CLIP, but is a {type(model).__name__}")
    if path is None and model.config.use_long_text_path:
        path = "long"
        logger.info("Exporting the long text path; the other: --path short")
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"format": format, "dtype": dtype, "beta_clip_hf": __version__, "graphs": {}}
    about |= _about(model, processor, path)
    for name, graph in graphs_of(model, processor, path).items():
        # Where boxes lie takes precise numbers, and there are no weights.
        own_dtype = "float32" if isinstance(graph.module, RegionGraph) else dtype
        file = output / f"{name}.{FORMATS[format]}"
        write_graph(graph, file, own_dtype, positions=about["text"]["positions"])
        agreement = _agreement(run_graph(file, graph.inputs), graph.expected)
        _check(file, own_dtype, agreement, graph.expected)
        about["graphs"][name] = {
            "file": file.name,
            "dtype": own_dtype,
            "inputs": graph.shapes,
            "outputs": list(graph.expected),
            "agreement": agreement,
        }
    _save_tokenizer(processor.tokenizer, output / "tokenizer.json", about["text"]["max_length"])
    write_json(about, output / "export.json")
    return about


def write_graph(graph: Graph, file: Path, dtype: str = "float32", *, positions: int) -> None:
    """
    Writes one graph, as the suffix of the file says: `.onnx` or `.pt2`.

    Args:
        graph: One of [`graphs_of`].
        file: Where to.
        dtype: See [`export_graphs`].
        positions: The most tokens of a text.
    """
    if file.suffix == ".pt2":
        torch.export.save(_program(graph, positions)[0], file)
    elif dtype == "float32":
        _write_onnx(graph, file, positions)
    else:
        with TemporaryDirectory() as folder:
            full = Path(folder) / file.name
            _write_onnx(graph, full, positions)
            (_to_float16 if dtype == "float16" else _to_int8)(full, file, _is_large(graph))


@torch.no_grad()
def run_graph(file: Path, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs of a graph in a file, by onnxruntime or torch on the CPU."""
    if file.suffix == ".pt2":
        outputs = torch.export.load(file).module()(**inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]
    _import_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in inputs.items()})]


def _program(graph: Graph, positions: int) -> tuple[ExportedProgram, dict[str, dict[int, Any]]]:
    names = {name for axes in graph.axes.values() for name in axes.values()}
    sizes = {name: Dim(name, max=positions) if name == "length" else Dim(name) for name in names}
    shapes = {name: {axis: sizes[size] for axis, size in axes.items()} for name, axes in graph.axes.items()}
    # RoIAlign asks for `len(boxes)`, which is a symbol to strict tracing only; of the towers less is traced without.
    strict = isinstance(graph.module, RegionGraph)
    with _quiet(), torch.no_grad():
        module = graph.module.eval()
        program = torch.export.export(module, (), kwargs=graph.inputs, dynamic_shapes=shapes, strict=strict)
    for node in program.graph.nodes:  # the places of source files on this machine, for each operation
        node.meta.pop("stack_trace", None)
    return program, shapes


def _write_onnx(graph: Graph, file: Path, positions: int) -> None:
    program, shapes = _program(graph, positions)
    with _quiet():
        torch.onnx.export(
            program,
            f=file,
            input_names=list(graph.inputs),
            output_names=list(graph.expected),
            dynamic_shapes=shapes,
            external_data=_is_large(graph),
            dynamo=True,
            verbose=False,
        )


def _to_float16(full: Path, file: Path, is_large: bool) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        half = convert_float_to_float16(onnx.load(full), keep_io_types=True)
    onnx.save(half, file, save_as_external_data=is_large, location=f"{file.name}.data")


def _to_int8(full: Path, file: Path, is_large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            full,
            file,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Weights of 7 bits: sums of 8 bits saturate on CPUs without VNNI, which costs far more.
            reduce_range=True,
            use_external_data_format=is_large,
        )


def _is_large(graph: Graph) -> bool:
    return sum(tensor.nbytes for tensor in graph.module.state_dict().values()) > MOST_BYTES_INSIDE


def _agreement(found: list[Tensor], expected: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """By output: the largest difference, and the lowest cosine of two rows."""
    return {
        name: {
            "largest_difference": float((one - own).abs().max()),
            "lowest_cosine": float(torch.cosine_similarity(one, own, dim=-1).min()),
        }
        for one, (name, own) in zip(found, expected.items(), strict=True)
    }


def _check(
    file: Path, dtype: str, agreement: Mapping[str, Mapping[str, float]], expected: Mapping[str, Tensor]
) -> None:
    for name, figures in agreement.items():
        difference, cosine = figures["largest_difference"], figures["lowest_cosine"]
        logger.info("%s, %s: differs by %.1e at most, cosine %.6f or more", file.name, name, difference, cosine)
        limit = TOLERANCE * max(1.0, float(expected[name].abs().max()))
        if dtype == "float32" and not difference <= limit:
            raise ValueError(
                f"{name} of {file} must be the model's up to {limit:.1e}, but differs by {difference:.1e}: "
                "try another version of torch, onnxscript or onnxruntime"
            )


def _about(model: BetaCLIPModel, processor: Any, path: str | None) -> dict[str, Any]:
    """How an image becomes pixel values and a text tokens, and what the embeddings are good for."""
    images, config = processor.image_processor, model.config
    positions = model.text_model.embeddings.position_embedding.num_embeddings
    if path == "long":
        positions = config.long_text_max_position_embeddings
    limit = processor.short_max_length if path == "short" else processor.max_length
    image = {
        "resize": dict(images.size) if images.do_resize else None,
        "resample": int(images.resample),  # as PIL counts them: 2 is bilinear, 3 bicubic
        "center_crop": dict(images.crop_size) if images.do_center_crop else None,
        "rescale_factor": images.rescale_factor if images.do_rescale else 1.0,
        "mean": list(images.image_mean) if images.do_normalize else [0.0] * 3,
        "std": list(images.image_std) if images.do_normalize else [1.0] * 3,
        "size": config.vision_config.image_size,
        "patch_size": config.vision_config.patch_size,
    }
    scales = {"embeds": model.logit_scale.exp().item()}
    if model.pooler is not None:
        scales["contextualized_embeds"] = model.pooler.logit_scale.exp().item()
    text = {"path": path, "positions": positions, "max_length": min(limit or positions, positions)}
    return {"image": image, "text": text, "projection_dim": config.projection_dim, "logit_scales": scales}


def _save_tokenizer(tokenizer: Any, file: Path, max_length: int) -> None:
    """As a file of `tokenizers`, which cuts texts, ends them and fills them up by itself."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.enable_truncation(max_length)
    plain.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    plain.save(str(file))


def _import_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'An export to ONNX needs {error.name}: pip install "beta-clip-hf[onnx]"') from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say to those who develop them; their errors come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip export onnx`."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a β-CLIP, FG-CLIP or CLIP model")
    parser.add_argument("output", metavar="DIR", help="directory to write")
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="ONNX, or torch.export programs")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights in ONNX")
    parser.add_argument("--path", choices=TEXT_PATHS, help="text path of a model with two (default: long)")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Exports; the report is export.json and where it is."""
    about = export_graphs(args.model, args.output, format=args.format, dtype=args.dtype, path=args.path)
    logger.info("Saved to %s", args.output)
    return Report({"output": args.output, **about})
