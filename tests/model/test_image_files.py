"""Which image files are opened, how large an image may be, and what memory any image takes."""

import ast
import io
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import beta_clip_hf
from beta_clip_hf.data.images import load_image
from beta_clip_hf.model.image_files_beta_clip import IMAGE_FORMATS, ImageLimits
from beta_clip_hf.model.image_loading_beta_clip import load_images
from beta_clip_hf.model.image_views_beta_clip import view_in_pixels, within_memory


SOURCES = sorted(Path(beta_clip_hf.__file__).parent.parent.rglob("*.py"))
# The one file that may open images, and the functions that open them.
_OPENER = "image_files_beta_clip.py"
_OPENERS = {("Image", "open"), ("ImageFile", "Parser"), ("image_utils", "load_image"), ("io", "decode_image")}


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_one_file_opens_images(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if path.name == _OPENER:
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in _OPENERS, f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(("image_utils", "torchvision.io")):
            assert not {alias.name for alias in node.names} & {"load_image", "fetch_images"}, f"{path}:{node.lineno}"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("form", ["bytes", "path", "opened"])
def test_eps_is_not_opened_and_no_program_starts(form, tmp_path, monkeypatch):
    def started(*arguments, **options):
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    path = tmp_path / "photo.jpg"
    path.write_bytes(EPS)
    image = {"bytes": EPS, "path": path, "opened": Image.open(path)}[form]
    with pytest.raises(ValueError, match=r"must be one of JPEG, .*PNG, WEBP"):
        load_image(image)


def test_no_allowed_format_is_one_that_starts_programs():
    assert not {"EPS", "WMF", "EMF", "GRIB", "BUFR", "HDF5", "FITS", "PDF"} & set(IMAGE_FORMATS)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/null", "folder"])
def test_only_regular_files_are_read(name, tmp_path):
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    if name == "folder":
        path.mkdir()
    if name.startswith("/"):
        path = Path(name)
    with pytest.raises(ValueError, match="must be a regular file") as error:
        load_image(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("size", "mode", "variable", "limit"),
    [
        ((200_000, 1), "L", "BETA_CLIP_IMAGE_SIDE", 300_000),
        ((14_000, 13_000), "1", "BETA_CLIP_IMAGE_MEGAPIXELS", 200),
        ((10_000, 9_000), "1", "BETA_CLIP_IMAGE_MEGABYTES", 900),
    ],
)
def test_limits_come_before_decoding_and_can_be_set(size, mode, variable, limit, monkeypatch):
    data = encoded(Image.new(mode, size))
    decoded = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(image))
    with pytest.raises(ValueError, match=f"{size[0]} × {size[1]} pixels.*set {variable}"):
        load_image(data)
    assert not decoded
    monkeypatch.setenv(variable, str(limit))
    if variable == "BETA_CLIP_IMAGE_MEGAPIXELS":
        monkeypatch.setenv("BETA_CLIP_IMAGE_MEGABYTES", "1000")
    monkeypatch.setattr("beta_clip_hf.model.image_loading_beta_clip._to_rgb", lambda image: image)
    assert load_image(data).size == size
    assert decoded


def test_a_limit_is_a_number_above_0(monkeypatch):
    for value in ("much", "0", "-1", "nan"):
        monkeypatch.setenv("BETA_CLIP_IMAGE_SIDE", value)
        with pytest.raises(ValueError, match=f"BETA_CLIP_IMAGE_SIDE must be a number above 0, but is '{value}'"):
            ImageLimits.from_environment()


def test_metadata_of_more_than_a_megabyte_is_read_up_to_a_limit(monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a red square " * 200_000, zip=True)
    info.add_text("plain", "x" * 3_000_000)
    data = encoded(Image.new("RGB", (3, 2), "red"), pnginfo=info)
    before = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)
    monkeypatch.setenv("BETA_CLIP_IMAGE_METADATA_MEGABYTES", "2")
    with pytest.raises(ValueError, match="must be readable"):
        load_image(data)
    # Pillow's own limits are as they were.
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def thin(width, height):
    """An image with another colour at each place of its long side."""
    places = np.arange(width * height).reshape(height, width)
    return Image.fromarray(np.stack([places % 251, places % 241, places // 160 % 256], axis=2).astype(np.uint8))


@pytest.mark.parametrize("crop", [20, 21, 32, 33, 40])
@pytest.mark.parametrize(
    "size", [(301, 7), (5, 400), (64, 48), (1, 90), (3, 420), (40, 4100), (100, 202), (60, 300), (300, 60)]
)
def test_a_smaller_image_gives_the_same_pixels(size, crop, monkeypatch):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": crop, "width": crop})
    image = thin(*size)
    whole = processor([image], return_tensors="pt")["pixel_values"]
    (same,) = within_memory([image], processor)
    assert same is image
    monkeypatch.setattr("beta_clip_hf.model.image_views_beta_clip._MOST_PIXELS", 10)
    (smaller,) = within_memory([image], processor)
    assert max(smaller.size) <= 40
    # The last bit may be rounded another way.
    close = processor([smaller], return_tensors="pt")["pixel_values"]
    assert (close - whole).abs().max() < 0.03
    squashing = {"size": {"height": 24, "width": 24}, "do_center_crop": False}
    (squashed,) = within_memory([image], processor, squashing)
    assert squashed.size == (24, 24)
    expected = processor([image], return_tensors="pt", **squashing)["pixel_values"]
    assert (processor([squashed], return_tensors="pt", **squashing)["pixel_values"] - expected).abs().max() < 0.03


def test_the_view_of_a_thin_image_is_at_least_a_pixel(tiny_processor):
    for size in ((40_000, 1), (1, 40_000), (30_001, 1)):
        left, top, right, bottom = view_in_pixels(size, tiny_processor.image_processor)
        assert right > left and bottom > top


_MEASURE = r"""
import json, multiprocessing, sys
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from beta_clip_hf.inference.reading import ImageReader

def memory(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

image_processor = CLIPImageProcessorPil()
def peak(data):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    try:
        shape = list(ImageReader([{"image": data}], image_processor)([0]).inputs["pixel_values"].shape)
    except ValueError as error:
        shape = str(error)
    return memory("VmHWM") - before, shape

def measure(path, results):
    results.put(peak(open(path, "rb").read()))

torch.set_num_threads(1)
peak(open(sys.argv[2], "rb").read())
# A process of its own for each image: the memory of an earlier one is used again.
context = multiprocessing.get_context("fork")
peaks = {}
for path in sys.argv[1:]:
    results = context.Queue()
    process = context.Process(target=measure, args=(path, results))
    process.start()
    peaks[path] = results.get()
    process.join()
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux")
def test_no_image_takes_more_than_three_times_the_memory_of_a_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "photo": encoded(Image.effect_noise((400, 300), 80).convert("RGB").resize((4000, 3000)), "JPEG"),
        "1 x 4000": encoded(thin(1, 4000)),
        "40000 x 1": encoded(thin(40_000, 1)),
        "13000 x 13000, 1 bit": encoded(Image.new("1", (13_000, 13_000))),
        "9000 x 9000": encoded(Image.new("RGB", (9000, 9000)), compress_level=1),
        "12000 x 9000": encoded(Image.new("RGB", (12_000, 9000)), "JPEG"),
        "8000 x 6000, turned": encoded(Image.new("RGB", (8000, 6000)), "JPEG", exif=exif),
        "8000 x 6000, progressive": encoded(Image.new("RGB", (8000, 6000)), "JPEG", progressive=True),
        "8000 x 6000, grey": encoded(Image.new("L", (8000, 6000))),
        "7000 x 7000, transparent": encoded(Image.new("RGBA", (7000, 7000)), compress_level=1),
        "5000 x 4000, 16 bits": encoded(Image.fromarray(np.zeros((4000, 5000), np.uint16))),
    }
    paths = {}
    for name, data in images.items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(data)
    command = [sys.executable, "-c", _MEASURE, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    peaks = {name: measured[str(path)][0] for name, path in paths.items()}
    assert max(peaks.values()) <= 3 * peaks["photo"], peaks
    shapes = {name: measured[str(path)][1] for name, path in paths.items()}
    # Too large by default; all others are read.
    assert "BETA_CLIP_IMAGE_MEGABYTES" in shapes.pop("13000 x 13000, 1 bit")
    assert all(shape == [1, 3, 224, 224] for shape in shapes.values()), shapes


@pytest.mark.filterwarnings("ignore")
def test_mutated_images_are_read_or_refused():
    rng = np.random.default_rng(0)
    photo = thin(40, 30)
    kinds = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {})]
    kinds.append(("JPEG", {"progressive": True}))
    for format, options in kinds:
        data = encoded(photo, format, **options)
        for _ in range(60):
            mutated = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(mutated), rng.integers(1, 6))
            mutated[places] = rng.integers(0, 256, len(places))
            content = mutated.tobytes()[: rng.integers(10, len(mutated) + 1)]
            try:
                image = load_image(content)
            except ValueError:
                continue
            assert image.mode == "RGB"
            assert image.width * image.height <= 110e6


def test_a_png_that_claims_more_than_it_holds_is_refused_before_decoding():
    data = bytearray(encoded(Image.new("L", (4, 4))))
    data[16:24] = (2**30).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="a side may have 100,000 pixels"):
        load_image(bytes(data))


def test_addresses_are_downloaded_up_to_a_limit(tmp_path, monkeypatch):
    import http.server
    import threading

    (tmp_path / "a.png").write_bytes(encoded(thin(40, 30)))
    (tmp_path / "a.eps").write_bytes(EPS)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            """Keeps the output of the tests clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        (image,) = load_images(f"{address}/a.png")
        assert torch.equal(torch.tensor(np.asarray(image)), torch.tensor(np.asarray(thin(40, 30))))
        with pytest.raises(ValueError, match="must be one of JPEG"):
            load_images(f"{address}/a.eps")
        with pytest.raises(ValueError, match="must be an address that answers"):
            load_images(f"{address}/b.png")
        monkeypatch.setenv("BETA_CLIP_IMAGE_MEGABYTES", "0.0001")
        with pytest.raises(ValueError, match="has more"):
            load_images(f"{address}/a.png")
        server.shutdown()
