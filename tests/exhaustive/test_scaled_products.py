"""All pairs of codes of all pairs of formats that block-scaled units take, at both ends of their scales.

The core at every level against the textbook, beside no accumulator and beside accumulators of any bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsv3_numerics import _core, reference
from dsv3_numerics.reference import ACCUMULATORS, FORMATS
from operands import bits

# The ends of the range, what is no number, and scales around one.
SCALES = {
    "float8_e8m0fnu": [0, 1, 66, 67, 126, 127, 187, 188, 253, 254, 255],
    "float8_e4m3fn": [0x00, 0x01, 0x07, 0x08, 0x38, 0x3F, 0x77, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF],
}
PAIRS = [
    (unit, left, right)
    for unit in ("blackwell_mxf8", "blackwell_mxf4", "blackwell_nvfp4")
    for left in ACCUMULATORS[unit].inputs
    for right in ACCUMULATORS[unit].inputs
]


def side(name: str, scale: str, scales: list[int]) -> tuple[Any, Any]:
    """Every code with each of some scales: the core's operand, and the textbook's."""
    codes = np.tile(np.arange(1 << FORMATS[name].bits, dtype=np.uint8), len(scales))
    beside = np.repeat(np.uint8(scales), 1 << FORMATS[name].bits)
    core = (codes, name, None, (1, 1), beside, (1, 1))
    kind = {"float8_e8m0fnu": "mx", "float8_e4m3fn": "nvfp4"}[scale]
    whole = np.float32(1) if kind == "nvfp4" else None
    parts = (codes[:, None].view(name), beside[:, None].view(scale), name, (1,), 1, kind, None, whole)
    return core, reference.Quantized(*parts)


@pytest.mark.parametrize(("unit", "left", "right"), PAIRS)
def test_every_pair_of_codes_with_scales_at_both_ends(unit: str, left: str, right: str) -> None:
    scale = str(ACCUMULATORS[unit].scale)
    scales, rng = SCALES[scale], np.random.default_rng(2)
    # four-bit codes with all scales at once; wider ones with each scale of a beside some of b
    small = max(FORMATS[left].bits, FORMATS[right].bits) == 4
    turns = [(scales, scales)] if small else [([s], [t]) for s, t in zip(scales, scales[::-1], strict=True)]
    before = _core.simd_level()
    for chosen in turns:
        (a, x), (b, y) = side(left, scale, chosen[0]), side(right, scale, chosen[1])
        shape = len(x.codes), len(y.codes)
        some = rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)
        for c in (None, some):
            start = np.zeros(shape, np.float32) if c is None else c
            with np.errstate(all="ignore"):
                row = ACCUMULATORS[unit]
                left_side, right_side = (reference.gemm._operand(q, row) for q in (x, y))
                want = reference.gemm.UNITS[row.unit](left_side[:, None], right_side[None, :], start, row)
            try:
                for level in _core.simd_levels():
                    _core.set_simd_level(level)
                    out = np.empty(want.size, np.float32)
                    flat = None if c is None else c.reshape(-1)
                    _core.matmul_nt(a, b, (1, *shape, 1), False, flat, (unit, 0), (out, "float32"))
                    np.testing.assert_array_equal(bits(out.reshape(shape)), bits(want), f"{level}, {chosen}")
            finally:
                _core.set_simd_level(before)
