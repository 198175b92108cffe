"""The Rust core: arithmetic on flat arrays. Names, policies and documentation are in the modules above it.

Arrays have one axis and are C-contiguous, aligned and native. float16, bfloat16 and code arrays cross as
unsigned integers; beside a typed array stands "float32", "float64", "float16" or "bfloat16". A layout is
(stack, rows, columns, rows of a block, columns of a block), tiles are (rows, columns, columns of a tile), and
how products are added is (accumulator, products between promotions or 0). Every function
but `empty` releases the GIL.
"""

from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Array: TypeAlias = NDArray[Any]
_Float32s: TypeAlias = NDArray[np.float32]
_Int64s: TypeAlias = NDArray[np.int64]
_Shape: TypeAlias = tuple[int, int, int, int]
_How: TypeAlias = tuple[str, int]
_Layout: TypeAlias = tuple[int, int, int, int, int]
_Typed: TypeAlias = tuple[_Array, str]
# Memory, the dtype's name, and the index of the first element, lengths and strides.
_Strided: TypeAlias = tuple[_Array, str, tuple[int, tuple[int, ...], list[int]]]
# Codes, their format, layout and multipliers.
_Coded: TypeAlias = tuple[_Array, str, _Layout, _Float32s]
# Codes, their format, scales and the block of each, scales that go into the unit and the block of each.
_Operand: TypeAlias = tuple[Any, ...]

__version__: str

def formats() -> list[dict[str, Any]]: ...
def format_row(name: str) -> dict[str, Any]: ...
def scale_rules() -> list[dict[str, Any]]: ...
def encode(
    src: _Typed | _Strided, codes_out: _Array, fmt: str, rounding: str, overflow: str, nan: str, seed: int
) -> None: ...
def decode(codes: _Array, fmt: str, out: _Typed) -> None: ...

@final
class QuantizePlans:
    def __new__(cls) -> QuantizePlans: ...
    def keep(
        self,
        call: tuple[Any, ...],
        x: _Array,
        codes: _Array,
        scales: _Array,
        real: str,
        layout: _Layout,
        fmt: str,
        scale: str,
        rule: str | dict[str, Any] | RuleRow,
        nonfinite: str,
        rounding: str | None,
        rest: dict[str, Any],
    ) -> None: ...
    def run(
        self, x: object, call: tuple[Any, ...], out: object
    ) -> tuple[_Array, _Array, dict[str, Any]] | None: ...

@final
class ProductPlans:
    def __new__(
        cls, quantized: tuple[type, tuple[str, ...]], prepared: tuple[type, tuple[str, ...]]
    ) -> ProductPlans: ...
    def keep(
        self,
        a: object,
        b: object,
        how: tuple[Any, Any, Any],
        formats: tuple[str, str],
        groups: tuple[tuple[int, int], tuple[int, int]],
        shape: _Shape,
        stacked: bool,
        options: _How,
        result: _Array,
        kind: str,
    ) -> None: ...
    def run(self, a: object, b: object, how: tuple[Any, Any, Any], out: object) -> _Array | None: ...

@final
class CastPlan:
    def __new__(
        cls,
        real: str,
        fmt: str,
        encode: tuple[str, str, str] | None,
        from_dtype: np.dtype[Any],
        to_dtype: np.dtype[Any],
    ) -> CastPlan: ...

@final
class CastPlans:
    def __new__(cls) -> CastPlans: ...
    def keep(self, dtype: np.dtype[Any], call: tuple[Any, ...], plan: CastPlan) -> None: ...
    def run(
        self, src: object, fmt: object, first: object, second: object, third: object, out: _Array | None
    ) -> _Array | None: ...

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
def amax(src: _Typed | _Strided, layout: _Layout, out: _Float32s) -> float: ...
def quantize(
    src: _Typed | _Strided,
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
def check_rule(rule: str | dict[str, Any] | RuleRow, scale: str, fmt: str, searching: bool) -> None: ...
def dequantize(coded: _Coded, out: _Typed) -> None: ...
def dequantize_packed(coded: _Coded, flip: int, out: _Typed) -> None: ...
def error_stats(src: _Typed, approx: _Float32s, coded: _Coded | None = None) -> dict[str, Any]: ...
def count_saturated(src: _Typed, coded: _Coded) -> int: ...
def accumulators() -> list[dict[str, Any]]: ...
def mma_step(a: _Operand, b: _Operand, accumulator: str, c: _Float32s, out: _Float32s) -> None: ...

@final
class Operand:
    def __new__(cls, side: _Operand, rows: int, cols: int) -> Operand: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def prepare(self, accumulator: str) -> int: ...

def matmul_nt(
    a: _Operand,
    b: _Operand | Operand,
    shape: _Shape,
    b_stacked: bool,
    c: _Float32s | None,
    how: _How,
    out: _Typed,
) -> None: ...
def matmul_grouped_nt(
    a: _Operand, b: _Operand, offsets: _Int64s, shape: _Shape, c: _Float32s | None, how: _How, out: _Typed
) -> None: ...
def logfmt_encode(
    src: _Typed | _Strided,
    tiles: tuple[int, int, int],
    bits: int,
    rounding: str,
    deepep: bool,
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
    amin: _Float32s,
    amax: _Float32s,
    bits: int,
    tiles: tuple[int, int, int],
    out: _Typed,
    precision: str,
) -> None: ...
def logfmt_pack(codes: _Array, rows: tuple[int, int, str], out: NDArray[np.uint8]) -> None: ...
def logfmt_unpack(packed: NDArray[np.uint8], rows: tuple[int, int, str], codes_out: _Array) -> None: ...

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
    def numbers(self, out: _Array) -> None: ...

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

def linear(x: _Array, rows: int, weight: Weight | Operand, how: Projection, out: _Array) -> None: ...
def swiglu(
    x: _Array,
    rows: int,
    weights: tuple[Weight | Operand, ...],
    how: tuple[Projection, Projection],
    out: _Array,
) -> None: ...
def rms_norm(x: _Array, weight: Weight, eps: float, bfloat16: bool, out: _Array) -> None: ...
def add(a: _Array, b: _Array, bfloat16: bool, out: _Array) -> None: ...
def combine(
    parts: _Array,
    indices: _Int64s,
    shares: _Array,
    shared: _Array | None,
    top: int,
    channels: int,
    ascending: bool,
    bfloat16: bool,
    out: _Array,
) -> None: ...
def rope_frequencies(settings: dict[str, Any]) -> tuple[list[float], float, float]: ...
def rotate(
    x: _Array,
    settings: dict[str, Any],
    positions: list[int] | _Int64s,
    heads: int,
    width: int,
    bfloat16: bool,
) -> None: ...
def attend(
    q: _Array,
    seen: _Array,
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
    q: _Array, k: _Array, w: _Array, shape: tuple[int, int, int], scale: float, out: _Array
) -> None: ...
def select(scores: _Array, past: int, top: int, flags: NDArray[np.bool_], gap: _Array) -> None: ...
def layer_norm(x: _Array, weight: Weight, bias: Weight, eps: float, bfloat16: bool, out: _Array) -> None: ...
def silu_product(a: _Array, b: _Array, bfloat16: bool, out: _Array) -> None: ...
def round_bfloat16(x: _Float32s) -> None: ...
def gate(
    logits: _Array,
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
def set_least_streamed(bytes: int) -> None: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_simd_level(name: str) -> None: ...
def crc32(data: NDArray[np.uint8], before: int = 0) -> int: ...
def empty(shape: tuple[int, ...], dtype: DTypeLike) -> _Array: ...

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
