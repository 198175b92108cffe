"""Layouts in which kernels take scales: pure functions, both ways.

Lives here: DeepGEMM's float32 and packed UE8M0 scales, NVIDIA's 128x4 tiles of block scales. Not here:
packing of codes (`pack`; two E2M1 stand in a byte, the low nibble first); shards of tensors (`shards`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Array, as_array, whole

# TMA copies 16 bytes at a time: so many elements of four bytes.
_ALIGNED = 4
_E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
# Rows and columns of a tile of NVIDIA's layout of block scales; rows of its inner columns.
_TILE, _INNER = (128, 4), 32


def to_mn_major(scales: ArrayLike) -> NDArray[np.float32]:
    """Lay float32 scales out as DeepGEMM's kernels read them: along m or n, aligned for TMA.

    Parameters
    ----------
    scales : array_like of float32
        Shape (..., mn, groups): a scale for each row and each group of k.

    Returns
    -------
    ndarray of float32, shape (..., groups, 4 * ceil(mn / 4)), C order
        The memory that DeepGEMM's tensor of strides (1, aligned mn) stands in. Zeros fill it up to 16 bytes.

    Raises
    ------
    TypeError, ValueError
        Another dtype; fewer than two axes.

    Notes
    -----
    Source: DeepGEMM, ``get_mn_major_tma_aligned_tensor``.

    Examples
    --------
    >>> import numpy as np
    >>> to_mn_major(np.float32([[1, 2], [3, 4], [5, 6]]))
    array([[1., 3., 5., 0.],
           [2., 4., 6., 0.]], dtype=float32)
    """
    array = _two_axes(scales, "scales", np.dtype(np.float32))
    return _padded(np.swapaxes(array, -1, -2), (1, _ALIGNED))


def from_mn_major(stored: ArrayLike, mn: int) -> NDArray[np.float32]:
    """Read what `to_mn_major` lays out.

    Parameters
    ----------
    stored : array_like of float32
        Shape (..., groups, 4 * ceil(mn / 4)).
    mn : int
        Rows.

    Returns
    -------
    ndarray of float32, shape (..., mn, groups)

    Raises
    ------
    TypeError, ValueError
        Another dtype; rows that do not fit the stored ones.

    Examples
    --------
    >>> import numpy as np
    >>> from_mn_major(np.float32([[1, 3, 5, 0], [2, 4, 6, 0]]), 3).tolist()
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    """
    array = _two_axes(stored, "stored", np.dtype(np.float32))
    _check_length(array, -1, mn, _ALIGNED, "mn")
    return np.ascontiguousarray(np.swapaxes(array[..., :mn], -1, -2))


def to_packed_ue8m0(scales: ArrayLike) -> NDArray[np.int32]:
    """Pack UE8M0 scales as DeepGEMM's Blackwell kernels read them: four exponents along k to an int32.

    Parameters
    ----------
    scales : array_like of float8_e8m0fnu, of uint8 codes, or of float32
        Shape (..., mn, groups). float32 must be powers of two from 2**-127 to 2**127.

    Returns
    -------
    ndarray of int32, shape (..., ceil(groups / 4), 4 * ceil(mn / 4)), C order
        The memory of DeepGEMM's ``get_mn_major_tma_aligned_packed_ue8m0_tensor``. Byte i of a word, from the
        low end, is group ``4 j + i``; zeros fill groups and rows up.

    Raises
    ------
    TypeError, ValueError
        Another dtype; fewer than two axes; float32 that are no such powers of two.

    Examples
    --------
    >>> import numpy as np
    >>> packed = to_packed_ue8m0(np.float32([[1, 2, 4, 8], [1, 1, 1, 1]]))
    >>> [hex(word) for word in packed.view(np.uint32)[0]]
    ['0x8281807f', '0x7f7f7f7f', '0x0', '0x0']
    """
    array = as_array(scales, "scales")
    if array.dtype == np.float32:
        array = _exponents(array)
    elif array.dtype in (_E8M0, np.dtype(np.uint8)):
        array = array.view(np.uint8)
    else:
        raise TypeError(
            f"scales: found dtype {array.dtype}, expected float8_e8m0fnu, its codes as uint8, or float32"
        )
    padded = _padded(_two_axes(array, "scales", array.dtype), (_ALIGNED, 4))
    words = np.ascontiguousarray(padded).view("<u4").astype(np.uint32, copy=False).view(np.int32)
    return np.ascontiguousarray(np.swapaxes(words, -1, -2))


def from_packed_ue8m0(stored: ArrayLike, mn: int, groups: int) -> Array:
    """Read what `to_packed_ue8m0` packs.

    Parameters
    ----------
    stored : array_like of int32
        Shape (..., ceil(groups / 4), 4 * ceil(mn / 4)).
    mn, groups : int
        Rows, and groups of k.

    Returns
    -------
    ndarray of float8_e8m0fnu, shape (..., mn, groups)

    Raises
    ------
    TypeError, ValueError
        Another dtype; rows or groups that do not fit the stored ones.

    Examples
    --------
    >>> import numpy as np
    >>> from_packed_ue8m0(np.int32([[0x00817F80, 0, 0, 0]]), 1, 3).astype(np.float32).tolist()
    [[2.0, 1.0, 4.0]]
    """
    array = _two_axes(stored, "stored", np.dtype(np.int32))
    _check_length(array, -1, mn, _ALIGNED, "mn")
    _check_length(array, -2, groups, 4, "groups", words=True)
    rows = np.ascontiguousarray(np.swapaxes(array, -1, -2)).view(np.uint32).astype("<u4", copy=False)
    return np.ascontiguousarray(rows.view(np.uint8)[..., :mn, :groups]).view(_E8M0)


def to_128x4(scales: ArrayLike) -> Array:
    """Swizzle block scales as cuBLASLt, FlashInfer and vLLM store them: tiles of 128 rows by 4 columns.

    Parameters
    ----------
    scales : array_like of float8_e4m3fn, float8_e8m0fnu or uint8
        Shape (..., rows, columns): a scale for each row and each block of k.

    Returns
    -------
    ndarray of the same dtype, shape (..., 128 * ceil(rows / 128), 4 * ceil(columns / 4)), C order
        Padded with zeros, then one tile after the other, the tiles of a band of rows first. In the 512 bytes
        of a tile the scale of row r and column c is at ``16 (r % 32) + 4 (r // 32) + c``.

    Raises
    ------
    TypeError, ValueError
        As for `to_mn_major`.

    Notes
    -----
    Source: cuBLAS documentation, "1D Block Scaling Factors Layout".

    Examples
    --------
    >>> import numpy as np
    >>> to_128x4(np.arange(256, dtype=np.uint8).reshape(64, 4)).reshape(-1)[:16]
    array([  0,   1,   2,   3, 128, 129, 130, 131,   0,   0,   0,   0,   0,
             0,   0,   0], dtype=uint8)
    """
    return into_tiles(_padded(_block_scales(scales, "scales"), _TILE))


def from_128x4(stored: ArrayLike, rows: int, columns: int) -> Array:
    """Read what `to_128x4` swizzles.

    Parameters
    ----------
    stored : array_like of float8_e4m3fn, float8_e8m0fnu or uint8
        Shape (..., 128 * ceil(rows / 128), 4 * ceil(columns / 4)).
    rows, columns : int
        Scales that are there, without padding.

    Returns
    -------
    ndarray of the same dtype, shape (..., rows, columns)

    Raises
    ------
    TypeError, ValueError
        As for `from_packed_ue8m0`.

    Examples
    --------
    >>> import numpy as np
    >>> scales = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(200, 3)
    >>> bool((from_128x4(to_128x4(scales), 200, 3) == scales).all())
    True
    """
    array = _block_scales(stored, "stored")
    _check_length(array, -2, rows, 128, "rows")
    _check_length(array, -1, columns, 4, "columns")
    return np.ascontiguousarray(out_of_tiles(array)[..., :rows, :columns])


def into_tiles(array: Array) -> Array:
    """Permute as `to_128x4`: any dtype, the last axes whole tiles."""
    *leading, rows, columns = array.shape
    tiles = array.reshape(*leading, rows // 128, 4, _INNER, columns // 4, 4)
    turned = np.moveaxis(tiles, -2, -4)  # bands, columns of tiles, 4, 32, 4
    return np.ascontiguousarray(np.swapaxes(turned, -2, -3)).reshape(array.shape)


def out_of_tiles(array: Array) -> Array:
    """Undo `into_tiles`."""
    *leading, high, wide = array.shape
    tiles = np.swapaxes(array.reshape(*leading, high // 128, wide // 4, _INNER, 4, 4), -2, -3)
    return np.moveaxis(tiles, -4, -2).reshape(array.shape)


def _exponents(array: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the UE8M0 codes of powers of two."""
    bits = array.view(np.uint32)
    least = np.uint32(1 << 22)  # 2**-127, which is subnormal
    field = bits >> np.uint32(23)
    good = (bits & np.uint32(0x7FFFFF) == 0) & (field > 0) & (field < 255) | (bits == least)
    if not good.all():
        place = tuple(np.argwhere(~good)[0].tolist())
        raise ValueError(
            f"scales: found {array[place]} at {place}, expected powers of two from 2**-127 to 2**127"
        )
    return field.astype(np.uint8)


def _block_scales(x: Any, name: str) -> Array:
    array = as_array(x, name)
    if array.dtype not in (_E8M0, _E4M3, np.dtype(np.uint8)):
        raise TypeError(f"{name}: found dtype {array.dtype}, expected float8_e4m3fn, float8_e8m0fnu or uint8")
    return _two_axes(array, name, array.dtype)


def _two_axes(x: Any, name: str, dtype: np.dtype[Any]) -> Array:
    array = as_array(x, name)
    if array.dtype != dtype:
        raise TypeError(f"{name}: found dtype {array.dtype}, expected {dtype}")
    if array.ndim < 2:
        raise ValueError(f"{name}: found shape {array.shape}, expected at least two axes")
    return array


def _padded(array: Array, multiples: tuple[int, int]) -> Array:
    """Fill the last two axes up with zeros to multiples."""
    high, wide = (-(-n // m) * m for n, m in zip(array.shape[-2:], multiples, strict=True))
    out = np.zeros((*array.shape[:-2], high, wide), array.dtype)
    out[..., : array.shape[-2], : array.shape[-1]] = array
    return out


def _check_length(
    array: Array, axis: int, count: int, multiple: int, name: str, *, words: bool = False
) -> None:
    """Refuse a count that is not what the stored axis was filled up from."""
    padded = -(-whole(count, name) // multiple) * (1 if words else multiple)
    if count < 0 or array.shape[axis] != padded:
        held = array.shape[axis] * (multiple if words else 1)
        raise ValueError(
            f"stored: found shape {array.shape}, whose axis {axis} holds {max(held - multiple + 1, 0)} to "
            f"{held} {name}, expected {count}"
        )
