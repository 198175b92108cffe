"""Calls that were checked before, with an `out`: they write, return and refuse what a first call does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dsv3_numerics as dn

X = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((128, 256)).astype(np.float32)
HOW: dict[str, Callable[[Any], Any]] = {
    "tiles": lambda out: dn.quantize_tiles(X, out=out),
    "blocks": lambda out: dn.quantize_blocks(X, out=out),
    "ue8m0": lambda out: dn.quantize_tiles(X, scale="ue8m0", out=out),
}


def known(how: Callable[[Any], Any]) -> Any:
    """Call twice without an `out`: the second call is by plan."""
    first, again = how(None), how(None)
    assert first.codes.tobytes() == again.codes.tobytes()
    return again


@pytest.mark.parametrize("name", HOW)
def test_quantizers_write_into_out(name: str) -> None:
    want = known(HOW[name])
    codes, scales = np.zeros_like(want.codes), np.zeros_like(want.scales)
    q = HOW[name]((codes, scales))
    assert q.codes is codes
    assert q.scales is scales
    assert q.block == want.block
    assert codes.tobytes() == want.codes.tobytes()
    assert scales.tobytes() == want.scales.tobytes()
    apart = np.zeros((6, 256), want.codes.dtype)[::2]
    q = HOW[name]((apart, None))
    assert q.codes is apart
    assert apart.tobytes() == want.codes.tobytes()


@pytest.mark.parametrize("name", HOW)
def test_quantizers_refuse_as_before(name: str) -> None:
    want = known(HOW[name])
    fixed = np.zeros_like(want.codes)
    fixed.flags.writeable = False
    wide = np.zeros((3, 256), np.float32)
    for codes, scales, error in (
        (fixed, None, ValueError),
        (wide, None, TypeError),
        (want.codes[:2], None, ValueError),
        (None, want.codes, TypeError),
        ([], None, TypeError),
    ):
        with pytest.raises(error, match="out"):
            HOW[name]((codes, scales))
    for out in (want.codes, [want.codes, want.scales], (want.codes,)):
        with pytest.raises(TypeError, match="out"):
            HOW[name](out)


def test_codes_may_lie_in_the_input() -> None:
    want = known(HOW["tiles"])
    x = X.copy()
    codes = x.view(np.uint8).reshape(-1)[: X.size].view(want.codes.dtype).reshape(X.shape)
    q = dn.quantize_tiles(x, out=(codes, np.zeros_like(want.scales)))
    assert q.codes is codes
    assert codes.tobytes() == want.codes.tobytes()


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_write_into_out(dtype: str, prepared: bool) -> None:
    a, b = dn.quantize_tiles(X), dn.quantize_blocks(W)
    right = dn.prepare(b, accumulator="hopper_fp8") if prepared else b
    dn.matmul_nt(a, right, dtype=dtype)
    want = dn.matmul_nt(a, right, dtype=dtype)
    out = np.zeros_like(want)
    assert dn.matmul_nt(a, right, dtype=dtype, out=out) is out
    assert out.tobytes() == want.tobytes()
    apart = np.zeros((6, 128), want.dtype)[::2]
    assert dn.matmul_nt(a, right, dtype=dtype, out=apart) is apart
    assert apart.tobytes() == want.tobytes()
    with pytest.raises(ValueError, match="out: found shape"):
        dn.matmul_nt(a, right, dtype=dtype, out=out[:2])
    with pytest.raises(TypeError, match="out: found dtype"):
        dn.matmul_nt(a, right, dtype=dtype, out=np.zeros(want.shape))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        dn.matmul_nt(a, right, dtype=dtype, out=out)


def test_products_may_lie_in_an_operand() -> None:
    a, b = dn.quantize_tiles(X), dn.quantize_blocks(W)
    want = dn.matmul_nt(a, b)
    raw = b.codes.view(np.uint8).reshape(-1)
    out = raw[: want.nbytes].view(np.float32).reshape(want.shape)
    assert dn.matmul_nt(a, b, out=out) is out
    assert out.tobytes() == want.tobytes()
