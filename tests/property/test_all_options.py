"""Every option of a function at once, core against textbook, at every SIMD level.

No two options may meet for the first time at a user's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _arrays, reference
from dsv3_numerics.reference.formats import code_dtype, format_row
from dsv3_numerics.reference.quant import RULES
from samples import (
    AT_RANDOM,
    E2M1,
    FORMATS,
    ROUNDINGS,
    SCALES,
    SOURCES,
    raw,
    rules_of,
    same_quantized,
    somewhere,
)

TOPS = ["ieee", "nan_only", "fnuz", "none"]


@st.composite
def made_formats(draw: st.DrawFn, most: int = 15) -> dn.Format:
    """Formats of any widths, biases, tops, with and without subnormals."""
    exponent = draw(st.integers(1, 7))
    mantissa = draw(st.integers(1, most - exponent))
    top = draw(st.sampled_from(TOPS))
    standard = (1 << (exponent - 1)) - 1
    fields = (1 << exponent) - (2 if top == "ieee" else 1)
    low, high = max(fields, 1) - 126, 127
    bias = draw(st.one_of(st.just(standard), st.integers(low, high)))
    subnormals = draw(st.booleans()) or fields < 1
    return dn.Format(exponent, mantissa, bias, top, subnormals)


def format_names(bits: int = 16) -> st.SearchStrategy[str]:
    named = [name for name, row in FORMATS.items() if row.bits <= bits]
    return st.one_of(st.sampled_from(named), made_formats(bits - 1).map(lambda f: dn.format_info(f).name))


@st.composite
def arrays_of(draw: st.DrawFn, dimensions: tuple[int, int], clean: bool | None = None) -> NDArray[Any]:
    """Numbers of any source dtype and many magnitudes; some zero, and some NaN or infinite unless clean."""
    shape = tuple(draw(st.lists(st.integers(1, 14), min_size=dimensions[0], max_size=dimensions[1])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = SOURCES[draw(st.sampled_from(list(SOURCES)))]
    low = draw(st.integers(-149, 100))
    exponents = rng.uniform(low, low + draw(st.integers(1, 40)), shape)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        numbers = rng.choice([-1, 1], shape) * np.exp2(exponents) * rng.choice([1, 1.5, 1.75], shape)
        x = np.array(numbers).astype(dtype)
        x[rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.9]))] = 0
        if clean:
            x[~np.isfinite(x.astype(np.float32))] = 1
        elif clean is False:
            x[rng.random(shape) < 0.05] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return draw(somewhere(x))


@pytest.fixture(autouse=True, scope="module")
def described() -> Iterator[None]:
    """Let the core have small arrays too where they stand, which NumPy copies for it elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_arrays, "_LEAST_APART", 0)
        yield


@st.composite
def own_rules(draw: st.DrawFn, scale: str, top: float) -> dn.Rule:
    """A row of the table, or columns at random that go together."""
    name = draw(st.sampled_from(rules_of(scale)))
    rule = dn.rules()[name]
    if draw(st.booleans()):
        rule = rule.replace(
            amax_nan=draw(st.sampled_from(["keep", "skip"])),
            amax_floor=draw(st.sampled_from([0, 1e-10, 1e-4, 3.0])),
            scale_floor=draw(st.sampled_from([0, 1e-6, 2.0**-126])),
            pow2_floor=draw(st.sampled_from([0, 1e-10, 1.0])),
            byte0=draw(st.sampled_from(["scale", "normal", "one"])),
            zero_tile="one" if rule.zero_tile == "one" else draw(st.sampled_from(["floor", "one"])),
            rounding=draw(st.sampled_from([mode for mode in ROUNDINGS if mode not in AT_RANDOM])),
            negative_zero=draw(st.booleans()),
            zero_scale=draw(st.sampled_from(["max", "zero"])),
        )
        if scale == "nvfp4":
            rule = rule.replace(candidates=draw(st.sampled_from([(6.0,), (6.0, 4.0), (5.0, 6.0, 3.0)])))
        elif rule.scale_op != "none":
            if rule.scale_op != "inverse":
                rule = rule.replace(scale_op=draw(st.sampled_from(["divide", "multiply"])))
            rule = rule.replace(
                apply_op=draw(st.sampled_from(["divide", "multiply_inverse", "multiply_ratio"])),
                max=draw(st.sampled_from([None, top / 2, top * 0.7])),
            )
    return rule if rule.max is None or rule.max <= top else rule.replace(max=None)


@st.composite
def settings_of(draw: st.DrawFn, shape: tuple[int, ...], name: str, scale: str, axis: int) -> dict[str, Any]:
    """Options of a quantizer for scales of a shape."""
    info = dn.format_info(name)
    rule = draw(own_rules(scale, info.max))
    rounding = draw(st.sampled_from([None, *ROUNDINGS]))
    options: dict[str, Any] = {"fmt": name, "scale": scale, "rule": rule, "rounding": rounding}
    options["seed"] = draw(st.integers(0, 2**64 - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    some = np.exp2(rng.integers(-60, 60, shape)).astype(np.float32)
    source = draw(st.sampled_from(["found", "amax", "scales", "found"]))
    if source == "amax":
        options["amax"] = np.where(rng.random(shape) < 0.1, np.float32(0), some * np.float32(1.3))
    elif source == "scales":
        if scale == "float32":
            rule = rule.replace(apply_op="divide") if rule.apply_op == "multiply_ratio" else rule
            options |= {"scales": some * np.float32(1.1), "rule": rule}
        elif scale == "nvfp4":
            options["scales"] = reference.encode(some, "float8_e4m3fn")
        else:
            options["scales"] = reference.encode(some, "float8_e8m0fnu")
    if scale in ("float32", "ue8m0") and draw(st.booleans()):
        options["floor"] = draw(st.sampled_from([0, 1e-6, 2.5])) if rule.least_exponent == -126 else 1e-6
    if scale == "nvfp4":
        rows = tuple(1 if i == axis % len(shape) else n for i, n in enumerate(shape))
        options["global_scale"] = draw(
            st.sampled_from(["tensor", "row", None, 0.5, 3e-4, np.full(rows, 0.25, np.float32)])
        )
        if (
            options["global_scale"] in ("tensor", "row")
            if isinstance(options["global_scale"], str)
            else False
        ):
            options["tensor_amax"] = draw(st.sampled_from([None, 1.0, 0.0]))
    return options


def textbook(options: dict[str, Any]) -> dict[str, Any]:
    """The same for the textbook: rules as its rows."""
    rule = options["rule"]
    return options | {"rule": next(iter(RULES.values()))._replace(**rule.columns())}


kinds = st.sampled_from(SCALES)


@pytest.mark.usefixtures("simd_level")
class TestAllOptions:
    """One class, so that each SIMD level is set once for all examples."""

    @given(st.data())
    def test_encode(self, data: st.DataObject) -> None:
        name = data.draw(format_names())
        x = data.draw(arrays_of((0, 3), data.draw(st.sampled_from([True, False, None]))))
        info = dn.format_info(name)
        options: dict[str, Any] = {
            "rounding": data.draw(st.sampled_from(ROUNDINGS)),
            "overflow": data.draw(
                st.sampled_from(["saturate", "nonfinite"] if info.has_nan else ["saturate"])
            ),
            "nan": data.draw(st.sampled_from(["code", "zero", "max"] if info.has_nan else ["zero", "max"])),
            "seed": data.draw(st.integers(0, 2**64 - 1)),
        }
        got, expected = dn.encode(x, name, **options), reference.encode(x, name, **options)
        np.testing.assert_array_equal(raw(got), raw(expected))

    @given(st.data())
    def test_decode_and_packing(self, data: st.DataObject) -> None:
        name = data.draw(format_names())
        row = format_row(name)
        width = code_dtype(name).itemsize
        codes = np.arange(1 << row.bits).astype(f"u{width}")
        if row.bits > 8:
            rng = np.random.default_rng(data.draw(st.integers(0, 99)))
            codes = rng.choice(codes, 300)
        dtype = SOURCES[data.draw(st.sampled_from(list(SOURCES)))]
        got, expected = (
            dn.decode(codes, fmt=name, dtype=dtype),
            reference.decode(codes, fmt=name, dtype=dtype),
        )
        np.testing.assert_array_equal(raw(got), raw(expected))
        some = codes[: data.draw(st.integers(0, codes.size))]
        packed = dn.pack(some, fmt=name)
        np.testing.assert_array_equal(packed, reference.pack(some, fmt=name))
        np.testing.assert_array_equal(raw(dn.unpack(packed, fmt=name, size=some.size)), some)

    @given(st.data())
    def test_quantize_tiles(self, data: st.DataObject) -> None:
        scale, name, propagate, x = self.input(data, (1, 3))
        axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
        tile = data.draw(st.one_of(st.none(), st.integers(1, 40), st.sampled_from([16, 32])))
        shape = list(x.shape)
        shape[axis] = -(-shape[axis] // (tile or shape[axis]))
        options = data.draw(settings_of(tuple(shape), name, scale, axis))
        options |= {"tile": tile, "axis": axis, "nonfinite": "propagate" if propagate else "raise"}
        got, expected = dn.quantize_tiles(x, **options), reference.quantize_tiles(x, **textbook(options))
        same_quantized(got, expected)
        self.same_numbers(got, expected, data)
        if propagate:
            return  # numbers read back may be infinite, and then there is no telling scales apart
        other = data.draw(st.integers(0, x.ndim - 1))
        if np.isfinite(got.dequantize()).all():
            again = {"axis": other, "tile": data.draw(st.integers(1, 40))}
            same_quantized(dn.requantize_tiles(got, **again), reference.requantize_tiles(expected, **again))

    @given(st.data())
    def test_quantize_blocks(self, data: st.DataObject) -> None:
        scale, name, propagate, x = self.input(data, (2, 3))
        block = data.draw(st.tuples(*[st.one_of(st.none(), st.integers(1, 30))] * 2))
        sizes = zip(block, x.shape[-2:], strict=True)
        shape = (*x.shape[:-2], *(-(-n // (length or n)) for length, n in sizes))
        options = data.draw(settings_of(shape, name, scale, -1))
        options |= {"block": block, "nonfinite": "propagate" if propagate else "raise"}
        got, expected = dn.quantize_blocks(x, **options), reference.quantize_blocks(x, **textbook(options))
        same_quantized(got, expected)
        self.same_numbers(got, expected, data)

    def input(self, data: st.DataObject, axes: tuple[int, int]) -> tuple[str, str, bool, Any]:
        """A kind of scale, a format that takes it, whether NaN passes, and numbers of so many axes."""
        scale = data.draw(kinds)
        name = data.draw(self.names(scale))
        propagate = dn.format_info(name).has_nan and data.draw(st.booleans())
        return scale, name, propagate, data.draw(arrays_of(axes, clean=not propagate))

    @staticmethod
    def names(scale: str) -> st.SearchStrategy[str]:
        """Formats that take a kind of scale."""
        if scale == "nvfp4":
            return st.just(E2M1)

        def takes(name: str) -> bool:
            row = format_row(name)
            return row.top != "scale" and row.exp < 8 and not (scale == "mx" and row.top == "integer")

        return format_names().filter(takes)

    @staticmethod
    def same_numbers(got: Any, expected: Any, data: st.DataObject) -> None:
        dtype = SOURCES[data.draw(st.sampled_from(list(SOURCES)))]
        mine, theirs = got.dequantize(dtype), reference.dequantize(expected, dtype)
        nan = np.isnan(theirs.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(mine.astype(np.float64)), nan)
        np.testing.assert_array_equal(raw(mine)[~nan], raw(theirs)[~nan])
