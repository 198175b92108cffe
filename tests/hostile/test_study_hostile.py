"""Hostile files and folders: each ends in a clear error before any work, and memory stays bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics.checkpoint import CheckpointError, open_source
from dsv3_numerics.study import run

INDEX = "model.safetensors.index.json"


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = safetensors({"w": entry([2], 0, 8)}, bytes(8))

BAD_FILES = {
    "empty": b"",
    "shorter than its length field": b"\1\2\3",
    "truncated header": GOOD[:20],
    "truncated data": GOOD[:-1],
    "huge header length": safetensors({}, length=1 << 62),
    "not JSON": safetensors(b"{nonsense"),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "a list": safetensors([1, 2]),
    "shape and bytes disagree": safetensors({"w": entry([3], 0, 8)}, bytes(8)),
    "shape overflows": safetensors({"w": entry([1 << 40, 1 << 40], 0, 8)}, bytes(8)),
    "negative shape": safetensors({"w": entry([-2], 0, 8)}, bytes(8)),
    "end before begin": safetensors({"w": entry([2], 8, 0)}, bytes(8)),
    "beyond the file": safetensors({"w": entry([1 << 20], 0, 4 << 20)}, bytes(8)),
    "overlap": safetensors({"v": entry([2], 0, 8), "w": entry([2], 4, 12)}, bytes(12)),
    "unknown dtype": safetensors({"w": entry([2], 0, 8, "F99")}, bytes(8)),
    "deep nesting": safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: .+"):
        run(path, ["bf16"])


@pytest.mark.parametrize(
    "weight_map",
    [
        {"w": "../secret.safetensors"},
        {"w": "/etc/secret.safetensors"},
        {"w": "a/../../secret.safetensors"},
        {"w": "..\\secret.safetensors"},
        {"w": "C:secret.safetensors"},
        {"w": "config.json"},
        {"w": ""},
        {"w": 7},
        {"w": None},
        {},
        ["w"],
        "w",
    ],
    ids=str,
)
def test_an_index_may_only_name_files_below_its_folder(tmp_path: Path, weight_map: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(GOOD)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"index\.json: "):
        open_source(folder)


@pytest.mark.parametrize("text", ["", "[", "null", "7", '{"weight_map": ', "[" * 100_000])
def test_an_index_that_is_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json: "):
        open_source(tmp_path)


def test_an_index_is_held_to_its_word(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    with pytest.raises(CheckpointError, match=r"names b\.safetensors, which is not there"):
        open_source(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(GOOD)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: the index says it holds 'v'"):
        open_source(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "b.safetensors").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="which is not there"):
        open_source(tmp_path)


def test_links_in_a_circle_and_folders_for_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    with pytest.raises(CheckpointError, match=r"loop\.safetensors: "):
        open_source(loop)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "dir.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"dir\.safetensors: "):
        open_source(tmp_path / "m")


def test_files_of_one_folder_may_not_contradict_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(GOOD)
    with pytest.raises(CheckpointError, match=r"both a\.safetensors and b\.safetensors hold 'w'"):
        open_source(tmp_path)
    with pytest.raises(CheckpointError, match="more than one"):
        run([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], ["bf16"])


def test_inputs_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    for path, message in [
        (tmp_path / "model.bin", "unknown kind"),
        (tmp_path / "none.npy", "no such file"),
        (tmp_path, "no .safetensors file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            open_source(path)


def npy(header: str, data: bytes) -> bytes:
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


BAD_NPY = {
    "empty": b"",
    "not npy": b"hello, this is not an array",
    "truncated header": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"")[:30],
    "truncated data": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(7)),
    "lying shape": npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}", bytes(8)
    ),
    "negative shape": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", bytes(8)),
    "no dtype": npy("{'descr': 'zzz', 'fortran_order': False, 'shape': (2,)}", bytes(8)),
    "code": npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (2,)}", bytes(8)),
}


@pytest.mark.parametrize("content", BAD_NPY.values(), ids=BAD_NPY)
def test_bad_npy_files_and_members(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for name in ("bad.npy", "bad.npz"):
        with pytest.raises(CheckpointError, match=name):
            run(tmp_path / name, ["bf16"])


def test_bad_archives(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=4000))
    good = path.read_bytes()
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(CheckpointError, match=r"bad\.npz"):
        open_source(path)
    path.write_bytes(good[:-40])
    with pytest.raises(CheckpointError, match=r"bad\.npz"):
        open_source(path)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    path.write_bytes(bytes(flipped))
    with pytest.raises(CheckpointError, match=r"bad\.npz"):
        run(path, ["bf16"])


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((100, 10), np.float32))
    (tensor,) = open_source(path).tensors
    os.truncate(path, 1000)
    with tensor.open() as rows, pytest.raises(CheckpointError, match="ends inside tensor 'x'"):
        rows(0, 100, 0, 10)


MEASURE = """
import sys
from dsv3_numerics import study
found = study.run(sys.argv[1], sys.argv[2:])
assert len(found.tensors) == 1, found.skipped
# not ru_maxrss, which a child inherits from whoever started it
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    ("shape", "schemes"),
    [((1, 300_000_000), ["e4m3:tensor:f32"]), ((75_000, 4000), ["e4m3:128x128:f32", "nvfp4"])],
    ids=["vector", "matrix"],
)
def test_memory_stays_bounded_whatever_the_size_of_a_tensor(
    tmp_path: Path, shape: tuple[int, int], schemes: list[str]
) -> None:
    """1.2 GB of zeros, as a file with a hole: two passes over it in a fraction of its size."""
    path = tmp_path / "big.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * shape[0] * shape[1])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path, *schemes],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert int(done.stdout) < 600 << 10, "KiB"
