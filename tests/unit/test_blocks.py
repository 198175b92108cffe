"""Products larger than a block: rows and columns of either side, groups of columns, several segments of k."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as d3
from dsv3_numerics import reference
from operands import bits

# (rows, columns, k): blocks have 24 or 48 rows, groups of columns up to 512, segments of k up to 1536.
SIZES = [
    (1, 1, 1),
    (13, 50, 33),
    (50, 13, 1601),
    (16, 75, 3201),
    (97, 33, 130),
    (48, 300, 1100),
    (530, 270, 2200),
    (40, 1100, 600),
]
WAYS: list[dict[str, Any]] = [
    {"promote_every": None},
    {"promote_every": 128},
    {"promote_every": 64, "dtype": ml_dtypes.bfloat16},
    {"promote_every": None, "c": True, "dtype": ml_dtypes.bfloat16},
    {"promote_every": 1024, "c": True},
]


def operands(kind: str, sizes: tuple[int, int, int], rng: np.random.Generator) -> list[Any]:
    """Codes of both sides: tiles and blocks with scales, or plain bfloat16."""
    m, n, k = sizes
    x, w = (rng.standard_normal((rows, k)).astype(np.float32) for rows in (m, n))
    x[rng.random(m) < 0.1] *= np.float32(2.0**90)
    if kind == "tiles":
        return [d3.quantize_tiles(x), d3.quantize_tiles(w)]
    return [d3.encode(v, kind) for v in (x, w)]


def some(side: Any, rows: NDArray[np.intp], kind: str) -> Any:
    """A few rows of a side, as the textbook takes them."""
    if kind == "tiles":
        return reference.Quantized(**{**vars(side), "codes": side.codes[rows], "scales": side.scales[rows]})
    return side[rows]


@pytest.mark.parametrize("way", WAYS, ids=repr)
@pytest.mark.parametrize("sizes", SIZES, ids=repr)
@pytest.mark.parametrize(
    ("accumulator", "kind"),
    [("float32", "tiles"), ("vdpbf16ps", "tiles"), ("vdpbf16ps", "bfloat16"), ("float32", "float8_e5m2")],
)
def test_outputs_are_the_textbook_s(
    accumulator: str, kind: str, sizes: tuple[int, int, int], way: dict[str, Any], product_level: str
) -> None:
    rng = np.random.default_rng(sum(sizes))
    m, n, _ = sizes
    a, b = operands(kind, sizes, rng)
    options = {**way, "accumulator": accumulator}
    if kind == "tiles" and way["promote_every"] != 64:
        options["promote_every"] = 128
    start = rng.standard_normal((m, n)).astype(np.float32) if options.pop("c", False) else None
    found = d3.matmul_nt(a, b, c=start, **options)
    i, j = (np.unique([0, rows // 2, rows - 1, *rng.integers(0, rows, 4)]) for rows in (m, n))
    few = None if start is None else start[np.ix_(i, j)]
    want = reference.matmul_nt(some(a, i, kind), some(b, j, kind), c=few, **options)
    np.testing.assert_array_equal(bits(found[np.ix_(i, j)]), bits(want))
