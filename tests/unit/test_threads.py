"""Threads: their number, and a process that forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dsv3_numerics as d3

FORK = """
import os, warnings
import numpy as np
import dsv3_numerics as d3
warnings.simplefilter("ignore")  # newer CPython warns of forking with threads, which is the point
x = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
d3.set_num_threads(2)
before = d3.encode(x, "float8_e4m3fn").view(np.uint8)
child = os.fork()
after = d3.encode(x, "float8_e4m3fn").view(np.uint8)
assert np.array_equal(before, after)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """The parent's pool has no threads in the child: waiting for it would hang."""
    subprocess.run([sys.executable, "-c", FORK], timeout=300, check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_children_forked_among_busy_threads_do_not_hang() -> None:
    """Other threads are building and resizing the pool at any moment of the fork; `make fork` does 1000."""
    program = Path(__file__).parents[1] / "endurance" / "fork.py"
    subprocess.run([sys.executable, program, "--count", "40"], timeout=600, check=True)


def test_masked_arrays_are_known_without_an_import() -> None:
    """A module that is being imported while a process forks stays locked in the child."""
    code = (
        "import sys, numpy as np, dsv3_numerics as d3\n"
        "d3.quantize_tiles(np.ones((1, 128), np.float32)).dequantize(out=np.empty((1, 128), np.float32))\n"
        "print([name for name in sys.modules if name.startswith('numpy.ma')] == before)\n"
    ).replace("\nd3.q", "\nbefore = [name for name in sys.modules if name.startswith('numpy.ma')]\nd3.q")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
    with pytest.raises(TypeError, match="masked array"):
        d3.encode(np.ma.masked_array([1.0]), "float8_e4m3fn")


def test_the_number_of_threads_is_kept() -> None:
    old = d3.get_num_threads()
    try:
        d3.set_num_threads(3)
        assert d3.get_num_threads() == 3
    finally:
        d3.set_num_threads(old)


@pytest.mark.parametrize("n", [0, -1, 1025, 10**30])
def test_a_number_of_threads_out_of_range_is_refused(n: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        d3.set_num_threads(n)


@pytest.mark.parametrize(
    ("variable", "value"), [("DSV3_NUMERICS_THREADS", "many"), ("DSV3_NUMERICS_SIMD", "mmx")]
)
def test_a_wrong_setting_in_the_environment_is_an_error_at_import(variable: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dsv3_numerics"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert variable in done.stderr
    assert value in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_a_thread_that_is_alone_starts_no_others() -> None:
    code = (
        "import os, numpy as np, dsv3_numerics as d3\n"
        "from dsv3_numerics import _core\n"
        "x = np.ones((512, 1024), np.float32)\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "d3.set_num_threads(4)\n"
        "before = threads()\n"
        "_core.set_alone(True)\n"
        "alone, after = d3.encode(x, 'float8_e4m3fn'), threads()\n"
        "_core.set_alone(False)\n"
        "together = d3.encode(x, 'float8_e4m3fn')\n"
        "print(after - before, threads() - before, alone.tobytes() == together.tobytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "4", "True"]
