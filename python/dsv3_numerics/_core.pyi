"""The Rust core: arithmetic on flat arrays. Names, policies and documentation are in the modules above it.

Arrays have one axis and are C-contiguous, aligned and native. float16, bfloat16 and code arrays cross as
unsigned integers; `src_dtype` and `out_dtype` are "float32", "float64", "float16" or "bfloat16". A layout is
(stack, rows, columns, rows of a block, columns of a block). Every function releases the GIL.
"""

from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]
_Float32s: TypeAlias = NDArray[np.float32]
_Layout: TypeAlias = tuple[int, int, int, int, int]
# Codes, their format, scales and the block of each, scales that go into the unit and the block of each.
_Operand: TypeAlias = tuple[Any, ...]

__all__ = [
    "Operand",
    "Projection",
    "RuleRow",
    "TensorTable",
    "Weight",
    "__version__",
    "accumulators",
    "add",
    "amax",
    "attend",
    "check_rule",
    "combine",
    "count_saturated",
    "crc32",
    "decode",
    "dequantize",
    "dequantize_packed",
    "differences",
    "encode",
    "error_stats",
    "format_row",
    "formats",
    "gate",
    "get_num_threads",
    "has_nan",
    "index_scores",
    "layer_norm",
    "linear",
    "logfmt_decode",
    "logfmt_encode",
    "logfmt_pack",
    "logfmt_unpack",
    "matmul_grouped_nt",
    "matmul_nt",
    "mma_step",
    "pack",
    "quantize",
    "rms_norm",
    "rope_frequencies",
    "rotate",
    "round_bfloat16",
    "rule_row",
    "scale_rules",
    "select",
    "set_alone",
    "set_least_shared",
    "set_num_threads",
    "set_simd_level",
    "silu_product",
    "simd_level",
    "simd_levels",
    "swiglu",
    "unpack",
]

__version__: str

def formats() -> list[dict[str, Any]]: ...
def format_row(name: str) -> dict[str, Any]: ...
def scale_rules() -> list[dict[str, Any]]: ...
def encode(
    src: _Array,
    src_dtype: str,
    codes_out: _Array,
    fmt: str,
    rounding: str,
    overflow: str,
    nan: str,
    seed: int,
) -> None: ...
def decode(codes: _Array, fmt: str, out: _Array, out_dtype: str) -> None: ...
def differences(
    a: _Array,
    b: _Array,
    meaning: str,
    table: tuple[NDArray[np.float64], NDArray[np.int32], bool] | None,
    grid: tuple[int, int, int],
    counts: NDArray[np.uint32],
    worst: NDArray[np.float64],
) -> dict[str, Any]: ...
def pack(codes: _Array, fmt: str, row_len: int, out: _Array) -> None: ...
def unpack(packed: _Array, fmt: str, row_len: int, out: _Array) -> None: ...
def amax(src: _Array, src_dtype: str, layout: _Layout, out: _Float32s) -> None: ...
def quantize(
    src: _Array,
    src_dtype: str,
    layout: _Layout,
    fmt: str,
    codes_out: _Array,
    scales_out: NDArray[np.uint8],
    scale: str,
    rule: str | dict[str, Any] | RuleRow,
    global_encode: _Float32s,
    global_decode: _Float32s,
    amax: _Float32s | None,
    scales: _Float32s | None,
    nonfinite: str,
    rounding: str | None,
    seed: int,
    known: _Float32s | None = None,
) -> None: ...

@final
class RuleRow: ...

def rule_row(rule: str | dict[str, Any] | RuleRow) -> RuleRow: ...
def has_nan(numbers: _Float32s) -> bool: ...
def check_rule(rule: str | dict[str, Any] | RuleRow, scale: str, fmt: str, searching: bool) -> None: ...
def dequantize(
    codes: _Array, fmt: str, layout: _Layout, scales: _Float32s, out: _Array, out_dtype: str
) -> None: ...
def dequantize_packed(
    packed: NDArray[np.uint8],
    flip: int,
    fmt: str,
    layout: _Layout,
    scales: _Float32s,
    out: _Array,
    out_dtype: str,
) -> None: ...
def error_stats(
    src: _Array,
    src_dtype: str,
    approx: _Float32s,
    coded: tuple[_Array, str, _Layout, _Float32s] | None = None,
) -> dict[str, Any]: ...
def count_saturated(
    src: _Array, src_dtype: str, codes: _Array, fmt: str, layout: _Layout, scales: _Float32s
) -> int: ...
def accumulators() -> list[dict[str, Any]]: ...
def mma_step(a: _Operand, b: _Operand, c: _Float32s, accumulator: str, out: _Float32s) -> None: ...

@final
class Operand:
    def __new__(cls, side: _Operand, rows: int, cols: int) -> Operand: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def prepare(self, accumulator: str) -> int: ...

def matmul_nt(
    a: _Operand,
    b: _Operand | Operand,
    shape: tuple[int, int, int, int],
    b_stacked: bool,
    c: _Float32s | None,
    accumulator: str,
    promote_every: int,
    out: _Array,
    out_dtype: str,
) -> None: ...
def matmul_grouped_nt(
    a: _Operand,
    b: _Operand,
    shape: tuple[int, int, int, int],
    offsets: NDArray[np.int64],
    c: _Float32s | None,
    accumulator: str,
    promote_every: int,
    out: _Array,
    out_dtype: str,
) -> None: ...
def logfmt_encode(
    src: _Array,
    src_dtype: str,
    rows: int,
    cols: int,
    bits: int,
    tile: int,
    rounding: str,
    zeros_count: bool,
    skip_nan: bool,
    seed: int,
    inner: int,
    codes_out: _Array,
    amin_out: _Float32s,
    amax_out: _Float32s,
    flags_out: NDArray[np.uint8],
) -> None: ...
def logfmt_decode(
    codes: _Array,
    bits: int,
    rows: int,
    cols: int,
    tile: int,
    amin: _Float32s,
    amax: _Float32s,
    out: _Array,
    out_dtype: str,
    precision: str,
) -> None: ...
def logfmt_pack(codes: _Array, row_len: int, bits: int, layout: str, out: NDArray[np.uint8]) -> None: ...
def logfmt_unpack(
    packed: NDArray[np.uint8], row_len: int, bits: int, layout: str, codes_out: _Array
) -> None: ...

@final
class Weight:
    def __new__(
        cls,
        array: _Array,
        dtype: str,
        rows: int,
        cols: int,
        scales: _Float32s | None = None,
        block: tuple[int, int] = ...,
        rounded: bool = False,
    ) -> Weight: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def numbers(self, out: _Array, dtype: str) -> None: ...

@final
class Projection:
    def __new__(
        cls,
        *,
        rows: tuple[str, int | None, str, str | dict[str, Any], str | None] | None = None,
        accumulator: str | None = None,
        promote_every: int = 0,
        bfloat16: bool = False,
    ) -> Projection: ...

def linear(
    x: _Array, dtype: str, rows: int, weight: Weight | Operand, how: Projection, out: _Array
) -> None: ...
def swiglu(
    x: _Array,
    dtype: str,
    rows: int,
    weights: tuple[Weight | Operand, ...],
    how: tuple[Projection, Projection],
    out: _Array,
) -> None: ...
def rms_norm(x: _Array, dtype: str, weight: Weight, eps: float, bfloat16: bool, out: _Array) -> None: ...
def add(a: _Array, b: _Array, dtype: str, bfloat16: bool, out: _Array) -> None: ...
def combine(
    parts: _Array,
    indices: NDArray[np.int64],
    shares: _Array,
    shared: _Array | None,
    dtype: str,
    top: int,
    channels: int,
    ascending: bool,
    bfloat16: bool,
    out: _Array,
) -> None: ...
def rope_frequencies(settings: dict[str, Any]) -> tuple[list[float], float, float]: ...
def rotate(
    x: _Array,
    dtype: str,
    settings: dict[str, Any],
    positions: list[int] | NDArray[np.int64],
    heads: int,
    width: int,
    bfloat16: bool,
) -> None: ...
def attend(
    q: _Array,
    seen: _Array,
    dtype: str,
    settings: dict[str, Any],
    past: int,
    absorbed: bool,
    kv_b: Weight | None,
    expanded: _Array | None,
    bfloat16: bool,
    out: _Array,
    probs: _Array | None,
    selected: NDArray[np.bool_] | None,
) -> None: ...
def index_scores(
    q: _Array,
    k: _Array,
    w: _Array,
    dtype: str,
    heads: int,
    channels: int,
    past: int,
    scale: float,
    out: _Array,
) -> None: ...
def select(
    scores: _Array, dtype: str, past: int, top: int, flags: NDArray[np.bool_], gap: _Array
) -> None: ...
def layer_norm(
    x: _Array, dtype: str, weight: Weight, bias: Weight, eps: float, bfloat16: bool, out: _Array
) -> None: ...
def silu_product(a: _Array, b: _Array, dtype: str, bfloat16: bool, out: _Array) -> None: ...
def round_bfloat16(x: _Float32s) -> None: ...
def gate(
    logits: _Array,
    dtype: str,
    bias: Weight | None,
    settings: dict[str, Any],
    indices: _Array,
    weights: _Array,
    gap: _Array,
) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def set_alone(alone: bool) -> None: ...
def set_least_shared(work: int) -> None: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_simd_level(name: str) -> None: ...
def crc32(data: NDArray[np.uint8], before: int = 0) -> int: ...

@final
class TensorTable:
    def __new__(cls) -> TensorTable: ...
    def read(self, path: str) -> tuple[int, int]: ...
    def metadata(self, file: int) -> dict[str, str]: ...
    def metadata_value(self, file: int, key: str) -> str | None: ...
    def take(self, row: int) -> int | None: ...
    def find(self, name: str) -> int | None: ...
    def name(self, row: int) -> str: ...
    def row(self, row: int) -> tuple[str, str, list[int], int, int]: ...
    def known(self) -> int: ...
