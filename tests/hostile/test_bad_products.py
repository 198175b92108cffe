"""Bad operands of products: errors that name both sides and their shapes; hostile sizes and values."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import training
from dsv3_numerics.reference import ACCUMULATORS

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
f32 = np.float32
A, B = np.zeros((3, 128), E4M3), np.zeros((5, 128), E4M3)
QA, QB = dn.quantize_tiles(np.ones((3, 256), f32)), dn.quantize_blocks(np.ones((5, 256), f32))


@pytest.mark.parametrize("call", [dn.matmul_nt, lambda a, b: dn.matmul_grouped_nt(a, b[None], [0, 3])])
def test_other_lengths_of_k(call: Any) -> None:
    with pytest.raises(ValueError, match=r"a \(\(3, 128\) .*\) and b \(\(.*5, 64\) .*expected last axes"):
        call(A, B[:, :64])


def test_both_sides_are_named_with_their_scales() -> None:
    with pytest.raises(
        ValueError, match=r"a \(\(3, 256\) float8_e4m3fn, a scale for 1x128\) and b \(\(5, 128\)"
    ):
        dn.matmul_nt(QA, B)


@pytest.mark.parametrize("shape", [(2, 5, 128), (3, 1, 5, 128)])
def test_stacks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"a \(\(3, 128\).*b \(.*expected b with two axes, or with leading axes"
    ):
        dn.matmul_nt(A, np.zeros(shape, E4M3))


@pytest.mark.parametrize("name", ["a", "b"])
def test_too_few_axes(name: str) -> None:
    pair: dict[str, Any] = {"a": A, "b": B, name: A[0]}
    with pytest.raises(ValueError, match=rf"{name}: found shape \(128,\), expected at least two axes"):
        dn.matmul_nt(**pair)
    pair[name] = dn.quantize_tiles(np.ones(128, f32))
    with pytest.raises(ValueError, match=rf"{name}: found shape \(128,\), expected at least two axes"):
        dn.matmul_nt(**pair)


@pytest.mark.parametrize(
    "wrong", [np.ones((3, 128), f32), np.ones((3, 128), np.uint8), [[1, 2]], None, "codes"]
)
def test_what_holds_no_codes(wrong: Any) -> None:
    for name in ("a", "b"):
        with pytest.raises(TypeError, match=rf"{name}: found dtype .*, expected codes of a format's dtype"):
            dn.matmul_nt(**{"a": A, "b": B, name: wrong})
    with pytest.raises(TypeError, match="a: found a masked array"):
        dn.matmul_nt(np.ma.masked_array(np.zeros((3, 128), np.float16)), B)


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_formats_that_a_unit_does_not_take(accumulator: str) -> None:
    inputs, other = ACCUMULATORS[accumulator].inputs, np.zeros((3, 128), ml_dtypes.float8_e8m0fnu)
    for left, right in [(other, B), (other, other)]:
        with pytest.raises(
            TypeError, match=rf"a \(\(3, 128\) float8_e8m0fnu\) and b .*{accumulator!r} takes {inputs[0]}"
        ):
            dn.matmul_nt(left, right, accumulator=accumulator)
    with pytest.raises(TypeError, match="takes"):
        dn.mma_step(other[:, :32], other[:, :32], accumulator=accumulator)


def test_units_there_are_none_of() -> None:
    for name in ("", "hopper", "HOPPER_FP8", None, 3, ["hopper_fp8"]):
        with pytest.raises(ValueError, match=r"accumulator: found .*, expected one of hopper_fp8, "):
            dn.matmul_nt(A, B, accumulator=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("every", [1, 8, 31, 33, 100, 129])
def test_promotion_between_steps(every: int) -> None:
    for accumulator, whole in [("hopper_fp8", 32), ("exact", 16), ("float32", 16), ("blackwell_fp8", 32)]:
        with pytest.raises(
            ValueError, match=rf"promote_every: found {every}, expected None or a multiple of {whole}"
        ):
            dn.matmul_nt(A, B, accumulator=accumulator, promote_every=every)


@pytest.mark.parametrize(
    ("every", "error"),
    [(0, ValueError), (-32, ValueError), (32.0, TypeError), (True, TypeError), ("32", TypeError)],
)
def test_promotion_of_another_kind(every: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="promote_every: found"):
        dn.matmul_nt(A, B, promote_every=every)


def test_promotion_in_the_middle_of_nothing() -> None:
    """Scales that change between two promotions, or without any."""
    fine = dn.quantize_tiles(np.ones((5, 256), f32), tile=96)
    with pytest.raises(
        ValueError, match=r"a .* and b .*a scale for 1x96.*promote_every=128; those of b last for 96"
    ):
        dn.matmul_nt(QA, fine)
    with pytest.raises(ValueError, match=r"promote_every=256; those of a last for 128"):
        dn.matmul_nt(QA, QB, promote_every=256)
    with pytest.raises(ValueError, match=r"expected promotion, because the scales of a change"):
        dn.matmul_nt(QA, QB, promote_every=None)
    with pytest.raises(ValueError, match=r"because the scales of b change"):
        dn.matmul_nt(np.zeros((3, 256), E4M3), QB, promote_every=None)


def test_an_interval_of_any_size_is_the_whole() -> None:
    want = dn.matmul_nt(A + A.dtype.type(1), B + B.dtype.type(1), promote_every=128)
    for every in (256, 2**62, 2**80 // 32 * 32):
        got = dn.matmul_nt(A + A.dtype.type(1), B + B.dtype.type(1), promote_every=every)
        np.testing.assert_array_equal(got, want)


def test_tiles_across_the_sum() -> None:
    across = dn.quantize_tiles(np.ones((128, 256), f32), axis=0)
    with pytest.raises(
        ValueError, match=r"a: found tiles along axis 0 of \(128, 256\), expected tiles along the last"
    ):
        dn.matmul_nt(across, QB)


def test_nan_among_scales() -> None:
    for q, name in [(QA, "a"), (QB, "b")]:
        broken = dn.Quantized(**{**vars(q), "scales": q.scales * f32(np.nan)})
        with pytest.raises(ValueError, match=rf"{name}: found NaN among the scales of \("):
            dn.matmul_nt(**{"a": QA, "b": QB, name: broken})
    propagated = dn.quantize_tiles(f32([[np.nan] * 256]), scale="ue8m0", nonfinite="propagate")
    with pytest.raises(ValueError, match="a: found NaN among the scales"):
        dn.matmul_nt(propagated, QB)


def test_scales_of_another_shape_never_get_this_far() -> None:
    with pytest.raises(ValueError, match=r"scales: found shape \(3, 1\), expected \(3, 2\)"):
        dn.matmul_nt(dn.Quantized(**{**vars(QA), "scales": QA.scales[:, :1]}), QB)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, E4M3, int, None])
def test_other_results(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"dtype: found .*, expected one of float32, bfloat16"):
        dn.matmul_nt(A, B, dtype=dtype)


def test_bad_c() -> None:
    for shape in ((5, 3), (3,), (1, 5), (3, 5, 1), ()):
        with pytest.raises(
            ValueError, match=r"c: found shape .*, expected \(3, 5\), that of the result for a \(\(3, 128"
        ):
            dn.matmul_nt(A, B, c=np.zeros(shape, f32))
    for dtype in (np.float64, np.int32, E4M3, object):
        with pytest.raises(TypeError, match=r"c: found dtype .*, expected float32, float16 or bfloat16"):
            dn.matmul_nt(A, B, c=np.zeros((3, 5), dtype))
    for every in (None, 128):
        with pytest.raises(ValueError, match=r"c: found .* float16"):
            dn.matmul_nt(A, B, c=np.full((3, 5), 0.1, f32), accumulator="hopper_fp8_f16", promote_every=every)
    with pytest.raises(ValueError, match="c: found numbers that float32 does not hold"):
        dn.mma_step(A[:, :32], A[:, :32], 0.1, accumulator="hopper_fp8")
    with pytest.raises(ValueError, match=r"c: found .* float16"):
        dn.mma_step(A[:, :32], A[:, :32], 2.0**-30, accumulator="hopper_fp8_f16")


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 128])
def test_steps_of_another_length(length: int) -> None:
    with pytest.raises(
        ValueError, match=rf"a \(\(3, {length}\).*and b \(\(32,\).*expected a last axis of 32"
    ):
        dn.mma_step(A[:, :length], A[0, :32], accumulator="hopper_fp8")
    with pytest.raises(ValueError, match="expected a last axis of 32"):
        dn.mma_step(A[0, 0], A[0, 0], accumulator="hopper_fp8")
    with pytest.raises(ValueError, match="expected leading axes that broadcast"):
        dn.mma_step(A[:, :32], B[:, :32], accumulator="hopper_fp8")
    with pytest.raises(ValueError, match="expected leading axes that broadcast"):
        dn.mma_step(A[:, :32], A[:, :32], np.zeros(2, f32), accumulator="hopper_fp8")


BAD_OFFSETS: dict[str, tuple[Any, type[Exception]]] = {
    "short": ([0, 3], ValueError),
    "long": ([0, 1, 2, 3], ValueError),
    "axes": ([[0, 1, 3]], ValueError),
    "start": ([1, 2, 3], ValueError),
    "end": ([0, 1, 4], ValueError),
    "before the end": ([0, 1, 2], ValueError),
    "falling": ([0, 4, 3], ValueError),
    "negative": ([0, -1, 3], ValueError),
    "huge": (np.uint64([0, 2**64 - 1, 3]), ValueError),
    "floats": ([0.0, 1.0, 3.0], TypeError),
    "bools": ([False, True, True], TypeError),
    "none": (None, TypeError),
}


@pytest.mark.parametrize("kind", BAD_OFFSETS)
def test_bad_offsets(kind: str) -> None:
    offsets, error = BAD_OFFSETS[kind]
    with pytest.raises(error, match="offsets: found"):
        dn.matmul_grouped_nt(A, np.stack([B, B]), offsets)


def test_experts_of_other_shapes() -> None:
    for a, b in [(A, B), (A[None], B[None]), (A, B[None, None])]:
        with pytest.raises(
            ValueError, match=r"a and b: found a .* and b .*expected \(m, k\) and \(experts, n, k\)"
        ):
            dn.matmul_grouped_nt(a, b, [0, 3])


def test_bad_out() -> None:
    readonly = np.zeros((3, 5), f32)
    readonly.flags.writeable = False
    for out, error in [
        ([0.0], TypeError),
        (np.zeros((3, 5)), TypeError),
        (np.zeros((3, 5), ml_dtypes.bfloat16), TypeError),
        (np.zeros((5, 3), f32), ValueError),
        (readonly, ValueError),
    ]:
        with pytest.raises(error, match=r"^out: found"):
            dn.matmul_nt(A, B, out=out)  # type: ignore[arg-type]
        with pytest.raises(error, match=r"^out: found"):
            dn.matmul_grouped_nt(A, B[None], [0, 3], out=out)  # type: ignore[arg-type]


def test_linear_layers_that_do_not_fit() -> None:
    x, w, dy = np.ones((4, 8), f32), np.ones((6, 8), f32), np.ones((4, 6), f32)
    with pytest.raises(ValueError, match=r"x and w: found shapes \(4, 8\) and \(6, 7\)"):
        training.fprop(x, w[:, :7])
    with pytest.raises(ValueError, match=r"dy and w: found shapes \(4, 5\) and \(6, 8\)"):
        training.dgrad(dy[:, :5], w)
    with pytest.raises(ValueError, match=r"dy and x: found shapes \(3, 6\) and \(4, 8\)"):
        training.wgrad(dy[:3], x)
    for call in (
        lambda: training.fprop(x[0], w),
        lambda: training.dgrad(dy, w[None]),
        lambda: training.wgrad(dy[None], x),
    ):
        with pytest.raises(ValueError, match="expected two axes"):
            call()
    for bad in ((x[:, :7], w, dy), (x, w, dy[:, :5]), (x[:3], w, dy)):
        with pytest.raises(ValueError, match="found shapes"):
            training.linear_errors(*bad)
    with pytest.raises(ValueError, match=r"x.*NaN|NaN.*x"):
        training.fprop(x * f32(np.nan), w)
