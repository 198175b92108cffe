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
        "scalar", "neon" (64-bit ARM), "avx2", "avx512", "avx512_bf16" (avx512, and its dot products for
        products) or "amx" (these, and tiles for products): the best of this machine, unless
        DSV3_NUMERICS_SIMD names another.

    Examples
    --------
    >>> simd_level() in ("scalar", "neon", "avx2", "avx512", "avx512_bf16", "amx")
    True
    """
    return _core.simd_level()


_NEEDED = ("numpy", "ml_dtypes", "click", "rich", "matplotlib")
_OPTIONAL = ("torch", "transformers", "safetensors", "tokenizers", "dask", "distributed", "jax", "numkong")


def show_versions() -> None:
    """Print what a report of a fault should say: versions, processor, vector instructions, threads.

    Packages that are not installed are listed as absent; none is imported.

    Examples
    --------
    >>> import dsv3_numerics
    >>> dsv3_numerics.show_versions()  # doctest: +ELLIPSIS
    dsv3_numerics  ...
    """
    import platform
    import sys
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "-"

    rows = [
        ("dsv3_numerics", _core.__version__),
        ("python", sys.version.split()[0]),
        ("system", platform.platform()),
        ("processor", platform.machine()),
        ("vector instructions", simd_level()),
        ("threads", str(get_num_threads())),
        *((name, version(name)) for name in (*_NEEDED, *_OPTIONAL)),
    ]
    width = max(len(name) for name, _ in rows)
    for name, found in rows:
        print(f"{name:{width}}  {found}")
