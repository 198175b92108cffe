"""Hostile inputs of a study: each ends in a clear error before any work; checkpoints have their own file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics.checkpoint import CheckpointError, open_source
from dsv3_numerics.study import run
from samples import as_array_files
from stored import entry, raw

GOOD = raw({"w": entry([2], 0, 8)}, bytes(8))


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
    for path in as_array_files(tmp_path, content):
        with pytest.raises(CheckpointError, match=path.name):
            run(path, ["bf16"])


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
