"""Saved quantized tensors that are damaged, lying or out of place: an error, never wrong numbers."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dsv3_numerics as dn
from samples import tensor

X = np.ones((4, 256), np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    dn.quantize_tiles(tensor((3, 40)), tile=16).save(tmp_path / "good.npz")
    return tmp_path / "good.npz"


def _rewrite(saved: Path, member: str, data: bytes, **options: Any) -> None:
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = data
    with zipfile.ZipFile(saved, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "lie",
    [
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3, -40), }"),
        _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3, 41), }", bytes(120)),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 40), }", bytes(120)),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 10), }", bytes(120)),
        _npy("{'descr': '|u1', 'fortran_order': True, 'shape': (3, 40), }", bytes(120)),
        _npy("{'descr': '>u2', 'fortran_order': False, 'shape': (3, 20), }", bytes(120)),
        _npy("__import__('os').abort()"),
        b"\x93NUMPY\x03\x00",
        b"",
    ],
    ids=range(10),
)
def test_lying_arrays(saved: Path, lie: bytes) -> None:
    _rewrite(saved, "codes.npy", lie)
    with pytest.raises(ValueError, match="expected a saved Quantized"):
        dn.Quantized.load(saved)


def test_other_files_are_refused(saved: Path, tmp_path: Path) -> None:
    _rewrite(saved, "more.npy", b"")
    with pytest.raises(ValueError, match="members"):
        dn.Quantized.load(saved)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    np.save(tmp_path / "other.npy", np.ones(3))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("other.npz", "other.npy", "empty"):
        with pytest.raises(ValueError, match="expected a saved Quantized"):
            dn.Quantized.load(tmp_path / name)
    dn.quantize_tiles(X).save(saved)
    with zipfile.ZipFile(saved) as archive:
        codes = archive.read("codes.npy")
    _rewrite(saved, "codes.npy", codes, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        dn.Quantized.load(saved)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dn.Quantized.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        dn.quantize_tiles(X).save(tmp_path / "none" / "q.npz")
    with pytest.raises(OSError):
        dn.Quantized.load(tmp_path)
    with pytest.raises(OSError):
        dn.quantize_tiles(X).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        dn.quantize_tiles(X).save(tmp_path / "q.npz")
    tmp_path.chmod(0o700)


def test_a_failed_save_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        dn.quantize_tiles(X).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["good.npz"]
