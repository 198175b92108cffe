"""Inputs that a user names and that are no plain files, or whose lengths are not so: refused at once."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from dsv3_numerics import Quantized, Recipe
from dsv3_numerics._regular import read_small, read_small_text
from dsv3_numerics.checkpoint import CheckpointError, open_source
from dsv3_numerics.cli.prompt import parse_ids
from dsv3_numerics.codesign.checks import read_array
from dsv3_numerics.codesign.drafts import accepted_share
from dsv3_numerics.codesign.errors import read_errors
from dsv3_numerics.codesign.hardware import read_hardware
from dsv3_numerics.codesign.reader import read_shape
from dsv3_numerics.codesign.replicas import read_load
from dsv3_numerics.compare.files import opened
from dsv3_numerics.compare.manifest import MANIFEST
from dsv3_numerics.model import Config
from samples import as_array_files, make_socket

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names"),
    pytest.mark.usefixtures("no_hanging"),
]


def _opened(path: Path) -> None:
    with opened(path, "a"):
        pass


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": os.mkdir,
}
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "npy": ("x.npy", open_source),
    "npz": ("x.npz", open_source),
    "recipe": ("r.json", lambda path: Recipe.read(str(path))),
    "config": ("c.json", Config.from_json),
    "token ids": ("ids.txt", lambda path: parse_ids(f"@{path}")),
    "saved": ("q.npz", Quantized.load),
    "shape": ("c.json", read_shape),
    "array": ("x.npy", lambda path: read_array(path, "x")),
    "load": ("x.csv", read_load),
    "acceptance": ("x.json", accepted_share),
    "hardware": ("x.toml", lambda path: read_hardware(str(path))),
    "npy to compare": ("x.npy", _opened),
    "npz to compare": ("x.npz", _opened),
    "a manifest": (MANIFEST, lambda path: _opened(path.parent)),
    "errors": ("x.csv", lambda path: read_errors([path])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    KINDS[kind](tmp_path / name)
    with pytest.raises((ValueError, OSError, click.BadParameter)) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) or kind == "a folder"  # which some readers take


def test_small_files_are_read_within_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_small(path, 5) == b"12345"
    with pytest.raises(ValueError, match="x: longer than 4 bytes"):
        read_small(path, 4)
    path.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"x: not UTF-8 .*position 2"):
        read_small_text(path)
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match="longer than"):
        Recipe.load(path)


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"
ARRAYS = {
    "a length of 2^32 - 1": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + HEADER,
    "a length beyond the file": b"\x93NUMPY\1\0" + struct.pack("<H", 200) + HEADER,
    "no closing bracket": b"\x93NUMPY\1\0" + struct.pack("<H", 20) + HEADER[:20] + bytes(100),
    "no closing quote": b"\x93NUMPY\1\0" + struct.pack("<H", 4) + HEADER[:4] + bytes(100),
    "nested": b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000 + bytes(100),
    "a megabyte of header": b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 20) + b" " * (1 << 20) + bytes(8),
    "half a magic": b"\x93NUM",
    "no header": b"\x93NUMPY\1\0",
    "no bytes": b"",
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_headers_of_npy_that_are_unfinished_or_too_long(tmp_path: Path, content: bytes) -> None:
    for path in as_array_files(tmp_path, content):
        with pytest.raises(CheckpointError, match=path.name) as caught:
            open_source(path)
        assert len(str(caught.value)) < 600 + len(str(tmp_path))
    with pytest.raises(ValueError, match=r"bad\.npy"):
        read_array(tmp_path / "bad.npy", "load")


def test_an_array_that_is_longer_than_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(1000, np.float32))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"shape \(1000,\), for which 4127 bytes are too few"):
        open_source(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="too few"):
        read_array(tmp_path / "x.npy", "load")
