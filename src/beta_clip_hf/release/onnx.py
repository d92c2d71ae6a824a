"""A model as ONNX graphs or `torch.export` programs, for use without this package and transformers."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..files import replacing, write_json
from ..version import __version__
from .directories import check_output
from .export_parts import parts_of
from .graphs import Graph, RegionGraph


logger = logging.getLogger(__name__)

# Formats, and the suffixes of their files.
FORMATS = {"onnx": "onnx", "torch": "pt2"}
DTYPES = ("float32", "float16", "int8")
# The largest difference between a float32 graph and the model, relative to the largest value where that is above 1.
TOLERANCE = 1e-4
# A protobuf file holds 2 GiB at most. Larger weights go to a file of their own beside the graph.
MOST_BYTES_INSIDE = 2**31 - 2**24


def export_graphs(
    source: str | Path,
    output_dir: str | Path,
    *,
    format: str = "onnx",
    dtype: str = "float32",
    path: str | None = None,
    grid: tuple[int, int] | None = None,
) -> dict[str, Any]:
    r"""
    Writes a model as one graph for each part, `tokenizer.json`, and `export.json`, which says how to use them.

    Each graph runs on four generated scenes and is compared with the model in float32; `export.json` says how well they
    agree.

    Args:
        source: Directory or Hub id of a β-CLIP, an FG-CLIP 1 or 2, a plain CLIP, SigLIP or SigLIP 2, with its
            processor.
        output_dir: Directory to write.
        format: `"onnx"`, or `"torch"` for the programs of `torch.export` (`.pt2`).
        dtype: Precision of the weights of ONNX graphs: `"float32"`, `"float16"`, or `"int8"` (for matrices and
            embedding tables; activations are quantised as they come). Inputs and outputs are float32 in all of them.
        path: The text path of a model with two: `"long"` (the default) or `"short"`; on SigLIP 2 towers `"short"` (the
            default), `"long"` or `"box"`. Other models take `None` only.
        grid: Rows and columns of patches of all images, on SigLIP 2 towers only. By default the square that the table
            of positions was made for.

    Returns:
        The content of `export.json`.

    Raises:
        ValueError: for an unknown format or dtype, a model of another kind or without such a path or grid, the source
            as the output, or a float32 graph that disagrees with the model.
        ImportError: without onnx, onnxruntime or onnxscript.
    """
    _check_format(format, dtype)
    check_output(output_dir, source)
    parts = parts_of(source, path, grid)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)

    description: dict[str, Any] = {"format": format, "dtype": dtype, "beta_clip_hf": __version__, "graphs": {}}
    description |= parts.description
    for name, graph in parts.graphs.items():
        # RoIAlign has no weights, and half precision would move its boxes.
        graph_dtype = "float32" if isinstance(graph.module, RegionGraph) else dtype
        file = output / f"{name}.{FORMATS[format]}"
        write_graph(graph, file, graph_dtype, positions=description["text"]["positions"])
        agreement = _agreement(run_graph(file, graph.inputs), graph.expected)
        _check_agreement(file, graph_dtype, agreement, graph.expected)
        description["graphs"][name] = {
            "file": file.name,
            "dtype": graph_dtype,
            "inputs": graph.shapes,
            "outputs": list(graph.expected),
            "agreement": agreement,
        }
    _save_tokenizer(parts.tokenizer, output / "tokenizer.json")
    write_json(description, output / "export.json")
    return description


def write_graph(graph: Graph, file: Path, dtype: str = "float32", *, positions: int) -> None:
    """
    Writes one graph as `.onnx` or `.pt2`, whichever suffix the file has.

    Args:
        graph: One of [`graphs_of`].
        file: The file to write.
        dtype: As for [`export_graphs`].
        positions: The largest number of tokens of a text.
    """
    if file.suffix == ".pt2":
        program, _ = _trace(graph, positions)
        # A path would have to end in .pt2, which that of an unfinished file does not.
        with replacing(file) as unfinished, open(unfinished, "wb") as stream:
            torch.export.save(program, stream)
        return
    if dtype == "float32":
        write_onnx(graph, file, positions)
        return
    # The smaller dtypes are made from a float32 graph, which is not kept.
    with TemporaryDirectory() as folder:
        full = Path(folder) / file.name
        write_onnx(graph, full, positions)
        convert = to_float16 if dtype == "float16" else to_int8
        convert(full, file, _is_large(graph))


def write_onnx(graph: Graph, file: Path, positions: int) -> None:
    """
    Writes one graph as float32 ONNX.

    Args:
        graph: One of [`graphs_of`].
        file: The file to write.
        positions: The largest number of tokens of a text.
    """
    program, shapes = _trace(graph, positions)
    is_large = _is_large(graph)
    with _quiet(), _graph_file(file, is_large) as unfinished:
        torch.onnx.export(
            program,
            f=unfinished,
            input_names=list(graph.inputs),
            output_names=list(graph.expected),
            dynamic_shapes=shapes,
            external_data=is_large,
            dynamo=True,
            verbose=False,
        )


@torch.no_grad()
def run_graph(file: Path, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Runs the graph in a file, by onnxruntime or torch on the CPU, and returns its outputs."""
    if file.suffix == ".pt2":
        outputs = torch.export.load(file).module()(**inputs)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]
    _import_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return [torch.from_numpy(array) for array in session.run(None, arrays)]


def _check_format(format: str, dtype: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"format must be one of {tuple(FORMATS)}, but is {format!r}")
    allowed = DTYPES if format == "onnx" else DTYPES[:1]
    if dtype not in allowed:
        raise ValueError(f"dtype must be one of {allowed} for the format {format!r}, but is {dtype!r}")
    # Before the model loads, which takes longer than to find out what is not installed.
    if format == "onnx":
        _import_onnx()


def _trace(graph: Graph, positions: int) -> tuple[ExportedProgram, dict[str, dict[int, Any]]]:
    """Traces a graph. Returns the program, and for each input the axes that may have any length."""
    dims = {}
    for axes in graph.axes.values():
        for axis_name in axes.values():
            # Axes of one name share one size. A text has no more tokens than the table has positions.
            dims[axis_name] = Dim(axis_name, max=positions) if axis_name == "length" else Dim(axis_name)
    shapes = {}
    for input_name, axes in graph.axes.items():
        shapes[input_name] = {axis: dims[axis_name] for axis, axis_name in axes.items()}

    # RoIAlign asks for `len(boxes)`, which only strict tracing keeps as a symbol. The other parts are traced without:
    # the tracer then need not understand transformers' Python code.
    strict = isinstance(graph.module, RegionGraph)
    with _quiet(), torch.no_grad():
        module = graph.module.eval()
        program = torch.export.export(module, (), kwargs=graph.inputs, dynamic_shapes=shapes, strict=strict)
    # Each operation names the lines of source that it comes from, with the paths of this machine.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program, shapes


def to_float16(full: Path, file: Path, is_large: bool) -> None:
    """Writes the float32 graph `full` with weights of float16. Large weights go to a file beside `file`."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        half = convert_float_to_float16(onnx.load(full), keep_io_types=True)
    with _graph_file(file, is_large) as unfinished:
        onnx.save(half, unfinished, save_as_external_data=is_large, location=f"{file.name}.data")


def to_int8(full: Path, file: Path, is_large: bool) -> None:
    """Writes the float32 graph `full` with matrices and tables of int8. Large weights go to a file beside `file`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet(), _graph_file(file, is_large) as unfinished:
        quantize_dynamic(
            full,
            unfinished,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Weights of 7 bits: sums of 8 bits saturate on CPUs without VNNI, which costs far more accuracy.
            reduce_range=True,
            use_external_data_format=is_large,
        )


@contextmanager
def _graph_file(file: Path, is_large: bool) -> Iterator[Path]:
    """Yields the path to write a graph to, which takes the place of `file` when the block ends, see [`replacing`]."""
    if is_large:
        # Two files cannot be replaced at once, and a graph names the file of its weights after the path that it is
        # written to. So these are written in place.
        yield file
        return
    with replacing(file) as unfinished:
        yield unfinished


def _is_large(graph: Graph) -> bool:
    """Tells whether the weights need a file of their own."""
    return sum(tensor.nbytes for tensor in graph.module.state_dict().values()) > MOST_BYTES_INSIDE


def _agreement(outputs: Sequence[Tensor], expected: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Returns for each output its largest difference from the model's, and the lowest cosine of two rows."""
    agreement = {}
    for output, (name, expected_output) in zip(outputs, expected.items(), strict=True):
        cosines = torch.cosine_similarity(output, expected_output, dim=-1)
        agreement[name] = {
            "largest_difference": float((output - expected_output).abs().max()),
            "lowest_cosine": float(cosines.min()),
        }
    return agreement


def _check_agreement(
    file: Path, dtype: str, agreement: Mapping[str, Mapping[str, float]], expected: Mapping[str, Tensor]
) -> None:
    """Logs how a graph agrees with the model. Raises `ValueError` for a float32 graph that does not."""
    for name, metrics in agreement.items():
        difference = metrics["largest_difference"]
        cosine = metrics["lowest_cosine"]
        logger.info("%s, %s: differs by %.1e at most, cosine %.6f or more", file.name, name, difference, cosine)
        limit = TOLERANCE * max(1.0, float(expected[name].abs().max()))
        # Not `difference > limit`, which is false for NaN.
        if dtype == "float32" and not difference <= limit:
            raise ValueError(
                f"{name} of {file} must be the model's up to {limit:.1e}, but differs by {difference:.1e}: "
                "try another version of torch, onnxscript or onnxruntime"
            )


def _save_tokenizer(tokenizer: Any, file: Path) -> None:
    """Saves a tokenizer of the library `tokenizers`, whole or not at all."""
    with replacing(file) as unfinished:
        tokenizer.save(str(unfinished))


def _import_onnx() -> None:
    """Raises `ImportError` with the extra to install if a library is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"an export to ONNX needs {error.name}: pip install onnx onnxruntime onnxscript") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what exporters log and warn for their own developers. Errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
