"""
Reads files that want far more memory than there is, each with half a gigabyte left, and prints how each has ended.

    python tests/hungry_files.py FOLDER MODEL

The test of bounded memory runs it: the limit is one of the whole process.
"""

import binascii
import bz2
import gzip
import json
import lzma
import resource
import shutil
import struct
import sys
import tarfile
from pathlib import Path

import torch

from beta_clip_cli.errors import sentence_of
from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.search.index import PhotoIndex
from beta_clip_hf.training.setup.config import read_config


LEFT = 2**29
PART = bytes(2**24)
# Two gigabytes.
PARTS = 128
LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))


def compressed_files(folder):
    """JSON Lines of two gigabytes, in a few hundred kilobytes; and one that asks for a dictionary of four gigabytes."""
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    try:
        import zstandard
    except ImportError:
        pass
    else:
        packers["zst"] = zstandard.compress
        whole = zstandard.ZstdCompressor().compressobj()
        content = b"".join(whole.compress(PART) for _ in range(PARTS)) + whole.flush()
        (folder / "one frame.jsonl.zst").write_bytes(content)
    for suffix, pack in packers.items():
        (folder / f"bomb.jsonl.{suffix}").write_bytes(pack(PART) * PARTS)
    packed = bytearray(lzma.compress(b'{"image": "a.jpg", "caption": "a"}\n'))
    # After the header of the stream of 12 bytes: the length of the block's header, and at 16 its dictionary.
    length = 4 * (packed[12] + 1)
    packed[16] = 40
    checksum = binascii.crc32(packed[12 : 12 + length - 4])
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", checksum)
    (folder / "dictionary.jsonl.xz").write_bytes(packed)


def tars(folder):
    """Tars whose headers say that a file, or the name of one, has eight gigabytes."""
    kinds = {"file": tarfile.REGTYPE, "name": tarfile.GNUTYPE_LONGNAME, "attributes": tarfile.XHDTYPE}
    for kind, member_type in kinds.items():
        info = tarfile.TarInfo("0.jpg")
        info.type, info.size = member_type, 2**33
        header = info.tobuf(tarfile.GNU_FORMAT)
        (folder / f"{kind}.tar").write_bytes(header + bytes(10_240))
        (folder / f"{kind}.tgz").write_bytes(gzip.compress(header) + gzip.compress(PART) * 64)


def models(folder, model):
    """Copies of a model with a file that is too large, nested too deeply, or that names huge weights."""
    config = json.loads((model / "config.json").read_text())
    huge = {**config, "text_config": {**config["text_config"], "hidden_size": 2**15, "num_hidden_layers": 900}}
    vocabulary = {**config, "text_config": {**config["text_config"], "hidden_size": 2**15, "vocab_size": 2**21}}
    contents = {
        "nested config": ("config.json", b"[" * 10**6),
        "nested tokenizer": ("tokenizer.json", b'{"a":' * 10**6),
        "nested processor": ("processor_config.json", b"[" * 10**6),
        "huge layers": ("config.json", json.dumps(huge).encode()),
        "huge vocabulary": ("config.json", json.dumps(vocabulary).encode()),
        "header of 2**60 bytes": ("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "header of blanks": ("model.safetensors", struct.pack("<Q", 99 * 10**6) + b" " * 99 * 10**6),
        "tensor of 2**60 numbers": ("model.safetensors", tensor_header([2**30, 2**30])),
    }
    for name, (file, content) in contents.items():
        shutil.copytree(model, folder / name)
        (folder / name / file).write_bytes(content)
    for name in ("tokenizer.json", "config.json", "processor_config.json"):
        shutil.copytree(model, folder / f"{name} of 8 GB")
        with open(folder / f"{name} of 8 GB" / name, "wb") as file:
            # It takes no space.
            file.truncate(2**33)
    return [*contents, *(f"{name} of 8 GB" for name in ("tokenizer.json", "config.json", "processor_config.json"))]


def tensor_header(shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    header = json.dumps({"logit_scale": entry}).encode()
    return struct.pack("<Q", len(header)) + header


def read_all_rows(path):
    """Reads the rows of a source. One that has none left is an error."""
    rows = load_rows(path)
    used = sum(1 for _ in rows)
    raise ValueError(f"{path}: {used} rows used, {rows.skipped} skipped")


def main():
    folder, model = Path(sys.argv[1]), Path(sys.argv[2])
    compressed_files(folder)
    tars(folder)
    model_names = models(folder, model)
    (folder / "laughs.yaml").write_text(LAUGHS)
    (folder / "deep.yaml").write_text("a: " + "[" * 100_000)
    (folder / "deep.jsonl").write_bytes(b"[" * 30_000_000)
    (folder / "no.index").mkdir()
    cases = {path.name: (read_all_rows, path) for path in sorted(folder.iterdir()) if ".jsonl" in path.name}
    cases |= {path.name: (read_all_rows, path) for path in sorted(folder.glob("*.t*"))}
    cases |= {path.name: (read_config, path) for path in sorted(folder.glob("*.yaml"))}
    cases |= {name: (lambda path: load_model(str(path), torch.device("cpu")), folder / name) for name in model_names}
    cases["no.index"] = (PhotoIndex.open, folder / "no.index")
    # What all cases need is there before the limit.
    load_model(str(model), torch.device("cpu"))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LEFT, resource.RLIM_INFINITY))
    for name, (read, path) in cases.items():
        try:
            read(path)
            sentence = None
        except Exception as error:
            sentence = sentence_of(error, [str(path)]) or f"fault: {error!r}"
        sys.stdout.write(json.dumps({"case": name, "sentence": sentence}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
