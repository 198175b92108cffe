"""Numbers that share a scale: quantization of tiles and blocks.

Lives here: names, policies and documentation of the quantizers; the arithmetic is the core's. The
result's container is in `quantized`, single numbers are in `formats`, the definitions in
`reference.quant`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import Array, as_array, deliver, destination, flat, normalize_axis, positive, source
from .number_formats import FormatInfo, encode, format_info
from .quantized import SCALE_DTYPES, Quantized, core_layout, scales_shape

Scale = Literal["float32", "ue8m0", "mx", "nvfp4"]
Rule = Literal["deepseek_v3", "deepgemm", "deepep", "vllm"]
NonFinite = Literal["raise", "propagate"]

_DEFAULT_RULE: Rule = "deepseek_v3"
_RULES = [row["name"] for row in _core.scale_rules()]
_TILE = 128
_STANDARD_TILE = {"mx": 32, "nvfp4": 16}
"""Elements that share a scale in the standards that define their own kind of scale."""
_STANDARD_FORMAT = {"nvfp4": "float4_e2m1fn"}
# Kinds of scale that are a rule of their own.
_OWN_RULE = ("mx", "nvfp4")


def quantize_tiles(
    x: ArrayLike,
    *,
    dtype: Any = "standard",
    tile: int | Literal["standard"] | None = "standard",
    axis: int = -1,
    scale: Scale = "float32",
    rule: Rule = _DEFAULT_RULE,
    floor: float | None = None,
    amax: ArrayLike | None = None,
    tensor_amax: float | None = None,
    nonfinite: NonFinite = "raise",
    out: tuple[Array | None, Array | None] | None = None,
) -> Quantized:
    """Quantize with one scale for every `tile` consecutive elements of an axis.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        At least one axis. float64 is rounded to float32 first, where the rules begin (what lies beyond is
        infinite). No copy is made of C-contiguous input in native byte order, one of any other.
    dtype : str or dtype
        The codes' format, see `formats`: any of at most 12 bits with a sign. "standard": E4M3; E2M1 under
        NVFP4's scales.
    tile : int, None or "standard"
        Elements that share a scale; the last tile of an axis may be short. None: the whole axis (a scale
        per row, say). "standard": 128; 32 under MX's scales, 16 under NVFP4's.
    axis : int
        The axis that is cut into tiles.
    scale : {"float32", "ue8m0", "mx", "nvfp4"}
        float32: ``amax / max`` as it is. ue8m0: the power of two above it. mx: OCP Microscaling's power
        of two, ``2**(floor(log2(amax)) - floor(log2(max)))``; alone it means MXFP8. nvfp4: E4M3 scales
        under one float32 scale for the whole array; alone it means NVFP4.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic float32 and ue8m0 follow, bit for bit (see Notes). "mx" and "nvfp4" have their own.
    floor : float, optional
        Least amax; the rule's by default. mx and nvfp4 have none.
    amax : array_like of float32, optional
        Largest magnitudes to use instead of those found, shape of the scales. Where they are too small,
        codes saturate.
    tensor_amax : float, optional
        For "nvfp4": the largest magnitude of a tensor of which `x` is a part. Parts that are given the same
        one have the global scale, scales and codes that the tensor has.
    nonfinite : {"raise", "propagate"}
        NaN and infinity in `x` raise, or make their tile's scale and codes what float32 arithmetic makes
        of them (formats with NaN only). Power-of-two and NVFP4 scales of such a tile are NaN, and its
        codes too.
    out : tuple of two (ndarray or None), optional
        Where codes and scales are written: exact shapes and dtypes, writeable. They may overlap the input.

    Returns
    -------
    Quantized
        Its `codes` and `scales` are those of `out`, where given.

    Raises
    ------
    TypeError
        Other input (integers, complex numbers, objects, masked arrays, arrays on a GPU), or arguments of
        another type.
    numpy.exceptions.AxisError
        `axis` out of range.
    ValueError
        No axis; `tile` below 1; an unknown name; `rule` with a scale that has its own; `floor` or `amax`
        negative or not finite; `amax` of another shape than the scales; NaN or infinity in `x`. After an
        error the content of `out` is undefined.

    Notes
    -----
    With ``a = max(amax, floor, max * 2**-126)``, every operation rounded to float32:

    ============ ===== ================ ================= ==============================
    rule         floor scale s          quotient          power of two at or above s by
    ============ ===== ================ ================= ==============================
    deepseek_v3  1e-4  a / max          x / s             bits: exponent, plus one if any
    deepgemm     1e-4  a / max          x * (1 / s)       bits
    deepep       1e-4  a * (1 / max)    x * (max / a)     bits
    vllm         1e-10 a / max          x / s             ceil(float32(log2(s)))
    ============ ===== ================ ================= ==============================

    Codes are the quotients rounded to nearest even, saturating. Sources: DeepSeek-V3 technical report,
    3.3.2, and the kernels of the projects that the rules are named after.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_tiles(np.float32([[448, 1, 2, 224]]), tile=2)
    >>> q.scales
    array([[1. , 0.5]], dtype=float32)
    >>> q.dequantize()
    array([[448.,   1.,   2., 224.]], dtype=float32)
    """
    array, kind = source(x, "x")
    if array.ndim == 0:
        raise ValueError("x: found no axis, expected at least one")
    place = normalize_axis(axis, array.ndim)
    size = _STANDARD_TILE.get(scale, _TILE) if tile == "standard" else tile
    block = (max(array.shape[place], 1) if size is None else positive(size, "tile"),)
    return _quantize(array, kind, dtype, block, place, scale, rule, floor, amax, tensor_amax, nonfinite, out)


def quantize_blocks(
    w: ArrayLike,
    *,
    dtype: Any = "float8_e4m3fn",
    block: tuple[int | None, int | None] | None = (128, 128),
    scale: Scale = "float32",
    rule: Rule = _DEFAULT_RULE,
    floor: float | None = None,
    amax: ArrayLike | None = None,
    tensor_amax: float | None = None,
    nonfinite: NonFinite = "raise",
    out: tuple[Array | None, Array | None] | None = None,
) -> Quantized:
    """Quantize with one scale for every block of the last two axes; leading axes are a stack of matrices.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16
        At least two axes.
    block : tuple of two (int or None), or None
        Rows and columns that share a scale; blocks at the edges may be short. None stands for a whole
        axis: (1, None) is a scale per row, (None, 1) per column, and None alone, for (None, None), per
        matrix. The blocks and the format of a standard are not chosen by its `scale`: see `quantize` and
        `quantize_tiles`.
    dtype, scale, rule, floor, amax, tensor_amax, nonfinite, out
        As for `quantize_tiles`.

    Returns
    -------
    Quantized

    Raises
    ------
    TypeError, ValueError
        As for `quantize_tiles`.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_blocks(np.ones((576, 7168), np.float32))
    >>> q.scales.shape
    (5, 56)
    """
    array, kind = source(w, "w")
    if array.ndim < 2:
        raise ValueError(f"w: found shape {array.shape}, expected at least two axes")
    given: Any = (None, None) if block is None else block
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(f"block: found {block!r}, expected two lengths (each may be None) or None")
    lengths = zip(given, array.shape[-2:], strict=True)
    size = tuple(max(whole, 1) if length is None else positive(length, "block") for length, whole in lengths)
    return _quantize(array, kind, dtype, size, None, scale, rule, floor, amax, tensor_amax, nonfinite, out)


def requantize_tiles(
    q: Quantized,
    *,
    axis: int,
    tile: int | None = 128,
    scale: Scale | None = None,
    rule: Rule | None = None,
    floor: float | None = None,
) -> Quantized:
    """Regroup: dequantize to float32 and quantize along another axis, as backward needs it (1x128 to 128x1).

    With UE8M0 scales on both sides no number changes, as long as none becomes subnormal in its new tile
    (under MX's scales the top of a tile may saturate).

    Parameters
    ----------
    q : Quantized
        Tiles or blocks.
    axis, tile, floor
        As for `quantize_tiles`.
    scale, rule : str, optional
        As for `quantize_tiles`; those of `q` by default.

    Returns
    -------
    Quantized
        In the format of `q`.

    Raises
    ------
    TypeError, ValueError
        As for `quantize_tiles`.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_tiles(np.float32([[1, 2], [3, 4]]), tile=2, scale="ue8m0")
    >>> bool((requantize_tiles(q, axis=0, tile=2).dequantize() == q.dequantize()).all())
    True
    """
    kind: Any = scale or q.scale_kind
    own: Any = None if kind in _OWN_RULE else q.rule
    return quantize_tiles(
        q.dequantize(),
        dtype=q.format,
        tile=tile,
        axis=axis,
        scale=kind,
        rule=rule or own or _DEFAULT_RULE,
        floor=floor,
    )


def _quantize(
    x: Array,
    kind: str,
    dtype: Any,
    block: tuple[int, ...],
    axis: int | None,
    scale: str,
    rule: str,
    floor: float | None,
    amax: ArrayLike | None,
    tensor_amax: float | None,
    nonfinite: str,
    out: tuple[Array | None, Array | None] | None,
) -> Quantized:
    _check_names(scale, rule, nonfinite)
    info = format_info(_STANDARD_FORMAT.get(scale, "float8_e4m3fn") if dtype == "standard" else dtype)
    floor = _checked_floor(floor, scale)
    shape, layout = scales_shape(x.shape, block, axis), core_layout(x.shape, block, axis)
    largest = None if amax is None else _checked_amax(amax, shape)
    inputs = (x,) if largest is None else (x, largest)
    codes_out, scales_out = _two(out)
    codes = destination(codes_out, x.shape, info.dtype, *inputs, name="out[0]")
    stored = destination(scales_out, shape, SCALE_DTYPES[scale], *inputs, name="out[1]")
    data = flat(x)
    global_scale = None
    top = _checked_top(tensor_amax, scale)
    if scale == "nvfp4":
        found = largest
        if found is None and top is None:
            found = np.empty(math.prod(shape), np.float32)
            _core.amax(data, kind, layout, found)
        global_scale = _global_scale(top, found, info)
    scales = stored.reshape(-1) if scale == "float32" else np.empty(math.prod(shape), np.float32)
    g = 1.0 if global_scale is None else float(global_scale)
    _core.quantize(
        data,
        kind,
        layout,
        info.name,
        flat(codes),
        scales,
        scale=scale,
        rule=rule,
        floor=floor,
        global_scale=g,
        amax=largest,
        nonfinite=nonfinite,
    )
    if scale != "float32":
        encode(scales.reshape(shape), SCALE_DTYPES[scale], out=stored)
    kept = None if scale in _OWN_RULE else rule
    return Quantized(
        deliver(codes, codes_out),
        deliver(stored, scales_out),
        info.name,
        block,
        axis,
        scale,
        kept,
        global_scale,
    )


def _check_names(scale: str, rule: str, nonfinite: str) -> None:
    """Refuse what the core would refuse too, before anything is allocated."""
    for name, found, expected in [
        ("scale", scale, list(SCALE_DTYPES)),
        ("rule", rule, _RULES),
        ("nonfinite", nonfinite, ["raise", "propagate"]),
    ]:
        if found not in expected:
            raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(expected)}")
    if scale in _OWN_RULE and rule != _DEFAULT_RULE:
        raise ValueError(f"rule: found {rule!r}, but scale={scale!r} has its own rule; leave it out")


def _checked_floor(floor: float | None, scale: str) -> float | None:
    if floor is None:
        return None
    if scale in _OWN_RULE:
        raise ValueError(f"floor: found {floor!r}, but scale={scale!r} has none; leave it out")
    return _magnitude(floor, "floor")


def _checked_top(tensor_amax: float | None, scale: str) -> float | None:
    if tensor_amax is None:
        return None
    if scale != "nvfp4":
        raise ValueError(f"tensor_amax: found {tensor_amax!r}, but only scale='nvfp4' has a use for it")
    return _magnitude(tensor_amax, "tensor_amax")


def _magnitude(value: Any, name: str) -> float:
    """Return a finite float32 of at least 0."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value):
        raise TypeError(f"{name}: found {value!r}, expected a number")
    with np.errstate(over="ignore"):
        number = float(np.float32(value))
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: found {value!r}, expected a finite number of at least 0")
    return number


def _checked_amax(amax: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = as_array(amax, "amax")
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"amax: found dtype {array.dtype}, expected float32")
    if array.shape != shape:
        raise ValueError(f"amax: found shape {array.shape}, expected {shape}, that of the scales")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("amax: found NaN, infinity or a negative number, expected finite magnitudes")
    return flat(array)


def _global_scale(top: float | None, amax: NDArray[np.float32] | None, info: FormatInfo) -> np.float32:
    """NVFP4's scale of scales, from the tensor's amax or the largest finite block."""
    if top is None:
        assert amax is not None
        top = float(amax.max(initial=np.float32(0), where=np.isfinite(amax)))
    return np.float32(_core.nvfp4_global(top, info.name))


def _two(out: Any) -> tuple[Array | None, Array | None]:
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"out: found {type(out).__name__}, expected a tuple of two arrays, for codes and scales"
        )
    codes, scales = out
    if codes is not None and scales is not None and np.may_share_memory(codes, scales):
        raise ValueError(
            "out: found codes and scales in the same memory, expected arrays apart from each other"
        )
    return codes, scales
