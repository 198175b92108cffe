"""The machine as the core uses it: threads and vector instructions.

Neither changes a result, only the time it takes. The environment sets both at the start, by
DSV3_NUMERICS_THREADS and by DSV3_NUMERICS_SIMD with the name of a level.
"""

from __future__ import annotations

from . import _core
from ._arrays import positive


def get_num_threads() -> int:
    """Threads that large operations share.

    Returns
    -------
    int
        DSV3_NUMERICS_THREADS or what `set_num_threads` said, else the number of processors.

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads that large operations share, for the whole process.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Less than 1, or more than the core takes.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    number = positive(n, "n")
    try:
        _core.set_num_threads(number)
    except OverflowError as error:
        raise ValueError(f"n: found {number}, expected a number of threads ({error})") from error


def simd_level() -> str:
    """Name the vector instructions in use.

    Returns
    -------
    str
        "scalar", "avx2", "avx512" or "amx" (avx512, and tiles for products): the best of this machine, unless
        DSV3_NUMERICS_SIMD names another.

    Examples
    --------
    >>> simd_level() in ("scalar", "avx2", "avx512", "amx")
    True
    """
    return _core.simd_level()
