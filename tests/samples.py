"""Common ground of tests: inputs (values of all codes, all midpoints, their neighbours), and comparisons."""

from __future__ import annotations

import os
import socket
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsv3_numerics import Rule
from dsv3_numerics.reference import FORMATS, value_table
from dsv3_numerics.reference.quant import RULES as TABLE

if TYPE_CHECKING:
    from dsv3_numerics.compare import Explanation

FLOAT_FORMATS = [name for name, row in FORMATS.items() if row.top != "integer"]
FINITE_FORMATS = [name for name, row in FORMATS.items() if row.top in ("none", "integer")]
SMALL_FORMATS = [name for name, row in FORMATS.items() if row.bits <= 8]
ML_FORMATS = [name for name in FORMATS if name not in ("e5m6", "int8")]
ROUNDINGS = [
    "nearest_even",
    "nearest_away",
    "nearest_toward_zero",
    "toward_zero",
    "up",
    "down",
    "stochastic",
    "stochastic8",
]
AT_RANDOM = ["stochastic", "stochastic8"]
SOURCES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
RULES = ["deepseek_v3", "deepgemm", "deepep", "vllm"]
SCALES = ["float32", "ue8m0", "mx", "nvfp4"]


def rules_of(scale: str) -> list[str]:
    """The named rules that can make a kind of scale."""
    powers = ("floor", "ceil", "even")
    can: dict[str, Any] = {
        "float32": lambda r: r.scale_op != "none" and (r.least_exponent == -126 or r.zero_tile == "one"),
        "ue8m0": lambda r: r.pow2_op != "none",
        "mx": lambda r: r.pow2_op in powers or (r.least_exponent == -127 and r.pow2_op != "none"),
        "nvfp4": lambda r: r.scale_op == "none" and r.pow2_op == "none",
    }
    return [name for name, row in TABLE.items() if can[scale](row)]


ALL_KINDS = [(scale, rule) for scale in SCALES for rule in rules_of(scale)]
E2M1 = "float4_e2m1fn"


def said(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the format said, which the textbook does not choose by the kind of scale."""
    usual = E2M1 if options.get("scale") == "nvfp4" else "float8_e4m3fn"
    return {"fmt": usual, **options}


def same_quantized(got: Any, expected: Any) -> None:
    """Byte for byte the same codes, scales and description as the textbook's."""
    np.testing.assert_array_equal(raw(got.codes), raw(expected.codes))
    assert got.codes.dtype == expected.codes.dtype
    assert got.scales.dtype == expected.scales.dtype
    if got.scale_kind == "float32":  # the sign and payload of a NaN are not part of the scale
        nan = np.isnan(expected.scales)
        np.testing.assert_array_equal(np.isnan(got.scales), nan)
        np.testing.assert_array_equal(raw(got.scales)[~nan], raw(expected.scales)[~nan])
    else:
        np.testing.assert_array_equal(raw(got.scales), raw(expected.scales))
    for field in ("format", "block", "axis", "scale_kind"):
        assert getattr(got, field) == getattr(expected, field), field
    assert columns(Rule.parse(got.rule)) == columns(expected.rule)
    assert (got.global_scale is None) == (expected.global_scale is None)
    if got.global_scale is not None:
        np.testing.assert_array_equal(got.global_scale, expected.global_scale)


def columns(rule: Any) -> tuple[Any, ...]:
    """The columns of the package's rule or the textbook's, numbers as float32."""
    values = rule.columns().values() if isinstance(rule, Rule) else rule
    single = (np.float32(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for v in values)
    return tuple(map(str, single))


@st.composite
def somewhere(draw: st.DrawFn, x: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in memory that is laid out otherwise; some of them repeated, if an axis is broadcast.

    Axes in any order, from either end, every number or every second one, with NaN in between.
    """
    order = draw(st.permutations(range(x.ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in order]
    pads = [draw(st.sampled_from([0, 0, 3])) for _ in order]
    lengths = [n * abs(step) + 2 * pad for n, step, pad in zip(x.shape, steps, pads, strict=True)]
    memory = np.full([lengths[axis] for axis in order], np.nan).astype(x.dtype)
    places = zip(x.shape, steps, pads, strict=True)
    part = tuple(slice(pad, pad + n * abs(step), abs(step)) for n, step, pad in places)
    turned = tuple(slice(None, None, -1 if step < 0 else 1) for step in steps)
    view = memory.transpose(np.argsort(order))[part][turned] if x.ndim else memory
    view[...] = x
    if x.size and x.ndim and draw(st.integers(0, 5)) == 0:
        axis = draw(st.integers(0, x.ndim - 1))
        return np.broadcast_to(view[(slice(None),) * axis + (slice(0, 1),)], x.shape)
    if x.dtype.kind == "f" and draw(st.integers(0, 9)) == 0:
        return view.astype(x.dtype.newbyteorder(">"), order="K")
    return view


def raw(array: NDArray[Any]) -> NDArray[Any]:
    """The bytes of an array as whole numbers, so that NaN equals NaN and -0 differs from 0."""
    return array.view(f"u{array.dtype.itemsize}")


def overflow_of(name: str) -> str:
    """The overflow policy that ml_dtypes has: non-finite codes where there are any."""
    return "saturate" if name in FINITE_FORMATS else "nonfinite"


def every_half(dtype: str) -> NDArray[Any]:
    """All 65536 float16 or bfloat16 values."""
    return np.arange(1 << 16, dtype=np.uint16).view(SOURCES[dtype])


@cache
def boundaries(name: str, source: str = "float32") -> NDArray[Any]:
    """Where rounding to a format decides: values, midpoints, their neighbours, and what lies beyond."""
    table = value_table(name)
    value = np.unique(table[np.isfinite(table)])
    spacing = value[-1] - value[-2]
    beyond = value[-1] + spacing * np.array([0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4])
    extremes = np.array(
        [0, 2.0**-149, 2.0**-126, 2.0**-133, 1e-30, 1e30, 2.0**127 * 1.5, 3.4028235e38, np.inf]
    )
    if source == "float64":
        extremes = np.concatenate([extremes, [5e-324, 1e-310, 1e200, 2.0**128, 1.7e308]])
    middle = (value[1:] + value[:-1]) / 2
    points = np.concatenate([value, middle, beyond, extremes, [np.nan]])
    with np.errstate(over="ignore"):
        points = np.concatenate([points, -points]).astype(SOURCES[source])
        if source in ("float32", "float64"):
            up, down = points.dtype.type(np.inf), points.dtype.type(-np.inf)
            points = np.concatenate([points, np.nextafter(points, up), np.nextafter(points, down)])
    return points


def tensor(shape: tuple[int, ...], source: str = "float32", seed: int = 0) -> NDArray[Any]:
    """Heavy-tailed numbers with zeros, a zero first row and a wide range of row magnitudes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, shape) * np.exp2(rng.integers(-20, 12, (*shape[:-1], 1)))
    x[rng.random(shape) < 0.02] = 0
    if x.ndim > 1 and x.size:
        x[..., 0, :] = 0
    with np.errstate(over="ignore"):
        return x.astype(SOURCES[source])


def same_logfmt(got: Any, expected: Any) -> None:
    """Byte for byte the same codes, ranges and escaped tiles, and the same words."""
    for field in ("codes", "amin", "amax", "escaped", "escaped_values"):
        mine, theirs = getattr(got, field), getattr(expected, field)
        assert (mine is None) == (theirs is None), field
        if mine is not None:
            assert mine.dtype == theirs.dtype, field
            np.testing.assert_array_equal(raw(mine), raw(theirs), err_msg=field)
    for field in ("bits", "tile", "axis", "mode", "rounding"):
        assert getattr(got, field) == getattr(expected, field), field


def as_array_files(folder: Path, content: bytes) -> list[Path]:
    """An .npy of these bytes, and an .npz with it as a member."""
    paths = [folder / "bad.npy", folder / "bad.npz"]
    paths[0].write_bytes(content)
    with zipfile.ZipFile(paths[1], "w") as archive:
        archive.writestr("x.npy", content)
    return paths


def explains(found: Explanation, column: str, words: str) -> bool:
    """Tell whether an explanation has these words in its cause, in a class of differences, or in a column."""
    if column == "cause":
        return words in found.cause
    if column == "class":
        return any(words in name for name in found.classes)
    return any(words in value for value in found.column(column))


def make_socket(path: Path) -> None:
    """Make a socket, which is no plain file."""
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
