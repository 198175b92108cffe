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


def test_scales_that_became_nan_are_refused() -> None:
    a, b = dn.quantize_tiles(X), dn.quantize_blocks(W)
    dn.matmul_nt(a, b)
    dn.matmul_nt(a, b)
    a.scales[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"a: found NaN among the scales"):
        dn.matmul_nt(a, b)


def test_arguments_of_equal_value_are_told_apart() -> None:
    """True, 1 and 1.0 are equal, but only one of them is an axis or a length."""
    x = np.ones((4, 4), np.float32)
    for axis, tile in ((1, 1), (1, 2)):
        for _ in range(2):
            dn.quantize_tiles(x, axis=axis, tile=tile)
    for axis, tile in ((True, 1), (1, True), (1.0, 1), (1, 2.0)):
        for _ in range(2):
            with pytest.raises(TypeError, match="found"):
                dn.quantize_tiles(x, axis=axis, tile=tile)  # type: ignore[arg-type]
    assert dn.quantize_blocks(x, block=(1, 2)).scales.shape == (4, 2)
    with pytest.raises(TypeError, match="found True"):
        dn.quantize_blocks(x, block=(True, 2))
    a, b = dn.quantize_tiles(X), dn.quantize_blocks(W)
    dn.matmul_nt(a, b, promote_every=128)
    with pytest.raises(TypeError, match="promote_every"):
        dn.matmul_nt(a, b, promote_every=128.0)  # type: ignore[arg-type]


def test_arguments_that_are_made_anew_are_known() -> None:
    want = dn.quantize_blocks(X, block=(2, 128), scale="ue8m0")
    size, scale = int("1280") // 10, "".join(["ue", "8m0"])
    for _ in range(2):
        q = dn.quantize_blocks(X, block=(2, size), scale=scale)  # type: ignore[arg-type]
        assert q.codes.tobytes() == want.codes.tobytes()
        assert (q.block, q.scale_kind) == ((2, 128), "ue8m0")


def test_a_list_is_read_each_time() -> None:
    block: Any = [1, 128]
    for rows in (1, 1, 3, 2):
        block[0] = rows
        assert dn.quantize_blocks(X, block=block).scales.shape == (-(-3 // rows), 2)


def test_prepared_weights_of_another_shape_are_others() -> None:
    codes = dn.encode(np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32), "e4m3")
    plain, q = dn.prepare(codes), dn.quantize_tiles(np.ones((1, 64), np.float32))
    for _ in range(2):
        assert dn.matmul_nt(q, plain).shape == (1, 8)
        with pytest.raises(ValueError, match="last axes"):
            dn.matmul_nt(q, dn.prepare(codes.reshape(4, 128)))


def test_prepared_weights_have_their_scales() -> None:
    ones, twos = np.ones((8, 1), np.float32), np.full((8, 1), 2, np.float32)
    codes, q = np.ones((8, 1), dn.encode([1.0], "e4m3").dtype), dn.quantize_tiles(np.ones((1, 1), np.float32))
    sides = [codes, *(dn.Quantized(codes, s, "float8_e4m3fn", (1, 1)) for s in (ones, twos))]
    for _ in range(2):
        for side, want in zip(sides, (1, 1, 2), strict=True):
            assert (dn.matmul_nt(q, dn.prepare(side)) == want).all()


@pytest.mark.parametrize("rows", [1, 70])
def test_more_calls_than_are_kept(rows: int) -> None:
    """Hundreds of kinds of calls, each made again: small ones, which keep the GIL, and larger ones."""
    x = np.random.default_rng(3).standard_normal((rows, 256)).astype(np.float32)
    found: dict[int, bytes] = {}
    for _ in range(3):
        for n in range(1, 301):
            q, w = dn.quantize_tiles(x), dn.quantize_blocks(np.resize(W, (n, 256)))
            product = dn.matmul_nt(q, w)
            assert product.shape == (rows, n)
            assert found.setdefault(n, product.tobytes()) == product.tobytes()
