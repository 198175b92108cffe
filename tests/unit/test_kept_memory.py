"""Memory of large outputs: used again, bounded, free for the kernel to take, and an array's own to NumPy."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

import dsv3_numerics as d3
from dsv3_numerics import _core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NumPy's own memory on other systems")

LEAST = 32 << 20
F32 = np.dtype(np.float32)
CODES = np.random.default_rng(0).integers(0, 120, LEAST // 4, dtype=np.uint8).view("V1")
CODES = CODES.view(d3.format_info("e4m3").dtype)


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_output_lies_where_the_last_one_was() -> None:
    want = d3.decode(CODES[:1000])
    first = d3.decode(CODES)
    place = first.ctypes.data
    view = first[5:]
    del first
    other = d3.decode(CODES)  # the view holds the first
    assert other.ctypes.data != place
    assert np.array_equal(view[:995], want[5:])
    del view
    again = d3.decode(CODES)
    assert again.ctypes.data == place
    assert np.array_equal(again[:1000], want)


def test_arrays_are_what_numpy_makes() -> None:
    out = _core.empty((8, LEAST // 8), np.uint8)
    assert (out.shape, out.dtype, out.base) == ((8, LEAST // 8), np.uint8, None)
    assert out.flags.owndata
    assert out.flags.carray
    assert get_handler_name(out) == "dsv3_numerics"
    for small in (_core.empty((3, 0), F32), _core.empty((), F32), _core.empty((LEAST // 4 - 1,), F32)):
        assert get_handler_name(small) == "default_allocator"
    assert get_handler_name(np.empty(LEAST, np.uint8)) == "default_allocator"  # nothing else is touched
    out[:] = 7
    for twin in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert np.array_equal(twin, out)


@pytest.mark.parametrize("rows", [1, 8, 9, 40, 0])
def test_arrays_can_be_resized(rows: int) -> None:
    out = _core.empty((8, LEAST // 8), np.uint8)
    out[:] = 7
    out.resize((rows, LEAST // 8), refcheck=False)
    assert (out[:8] == 7).all()
    assert not out[8:].any()


@pytest.mark.parametrize("shape", [(2**62,), (2**40, 2**40), (2**63 - 1,), (2**63,), (1,) * 70, (-1,)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, OverflowError, MemoryError)):
        _core.empty(shape, F32)


def test_threads_get_memory_of_their_own() -> None:
    def one(value: int) -> bool:
        for _ in range(20):
            out = _core.empty((LEAST,), np.uint8)
            out[::4096] = value
            if not (out[::4096] == value).all():
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(16)))


KEPT = """
import os, numpy as np
from dsv3_numerics import _core
def lazy():
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if "kB" in line)
    return int(lines["LazyFree"].split()[0]) >> 10
def made(mib):
    out = _core.empty((mib << 20,), np.uint8)
    out[:] = 1
    return out
"""


def test_free_blocks_are_the_kernels_to_take_and_bounded() -> None:
    program = KEPT + (
        "held = [made(40) for _ in range(4)]\n"
        "print(lazy())\n"
        "held.pop(); print(lazy())\n"
        "held.clear(); print(lazy())\n"
        "big = made(101); del big; print(lazy())\n"
    )
    found = [int(lazy) for lazy in run(program, DSV3_NUMERICS_KEPT_MIB="100").split()]
    # The kernel counts a page when a batch of some is full, and takes what it needs: a little may lack.
    assert all(most - 2 <= lazy <= most for lazy, most in zip(found, [0, 40, 80, 80], strict=True)), found


def test_a_block_serves_arrays_of_half_its_size_and_no_smaller_ones() -> None:
    program = KEPT + (
        "big = made(160); place = big.ctypes.data; del big\n"
        "small, half = made(79), made(80)\n"
        "print(small.ctypes.data == place, half.ctypes.data == place)\n"
    )
    assert run(program).split() == ["False", "True"]


def test_nothing_is_kept_where_the_environment_says_so() -> None:
    program = KEPT + (
        "from numpy._core.multiarray import get_handler_name\n"
        "out = made(64); print(get_handler_name(out)); del out; print(lazy())\n"
    )
    assert run(program, DSV3_NUMERICS_KEPT_MIB="0").split() == ["default_allocator", "0"]


@pytest.mark.parametrize("value", ["many", "-1", "1.5", str(2**60)])
def test_a_wrong_bound_is_an_error_at_import(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dsv3_numerics"],
        capture_output=True, text=True, env=os.environ | {"DSV3_NUMERICS_KEPT_MIB": value}, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "DSV3_NUMERICS_KEPT_MIB" in done.stderr


def test_a_forked_child_keeps_blocks_of_its_own() -> None:
    """Pages that it shares with its parent would be copied before they are written."""
    program = KEPT + (
        "import warnings; warnings.simplefilter('ignore')\n"
        "held, gone = made(32), made(32)\n"
        "place = gone.ctypes.data; del gone\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    held[:] = 2\n"
        "    shared = held.ctypes.data; del held\n"
        "    out = made(32)\n"
        "    own = out.ctypes.data; del out\n"
        "    again = made(32)\n"
        "    os._exit(0 if again.ctypes.data == own and (again == 1).all() else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert (held == 1).all()\n"
        "assert made(32).ctypes.data == place\n"
        "print('good')\n"
    )
    assert run(program).split() == ["good"]
