"""Saved codes that are cut short or damaged, of either container: an error, never wrong numbers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

import dsv3_numerics as dn
from samples import tensor

Coded = type[dn.Quantized] | type[dn.LogFmt]


@pytest.fixture(params=[dn.Quantized, dn.LogFmt])
def coded(request: pytest.FixtureRequest) -> Coded:
    found: Coded = request.param
    return found


@pytest.fixture
def saved(coded: Coded, tmp_path: Path) -> Path:
    x = tensor((3, 40)).copy()
    if coded is dn.Quantized:
        dn.quantize_tiles(x, tile=16).save(tmp_path / "good.npz")
    else:
        x[1, 20] = np.nan
        dn.logfmt_encode(x, tile=16, nonfinite="escape").save(tmp_path / "good.npz")
    return tmp_path / "good.npz"


def test_every_truncation_is_an_error(coded: Coded, saved: Path) -> None:
    data = saved.read_bytes()
    for size in range(0, len(data), 7):
        saved.write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"expected a saved {coded.__name__}"):
            coded.load(saved)


def test_flipped_bytes_are_errors_or_unread(coded: Coded, saved: Path) -> None:
    """A damaged byte is caught by a checksum or a check, unless no reader looks at it (a date, say)."""
    good = coded.load(saved)
    data = saved.read_bytes()
    for place in range(len(data)):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(ValueError):
            assert coded.load(saved).equals(good), place
