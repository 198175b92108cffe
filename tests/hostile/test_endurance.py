"""Programs of `endurance`: each for seconds, and whether it would notice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics import _core

PROGRAMS = Path(__file__).parents[1] / "endurance"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and pages of Linux")


def run(program: str, *args: str) -> str:
    """Run a program; its last line."""
    done = subprocess.run(
        [sys.executable, PROGRAMS / program, *args], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


def test_changed_files_are_read_or_refused() -> None:
    assert " 0 bad" in run("fuzz.py", "--seconds", "6")


def test_arrays_between_pages_that_nobody_may_touch() -> None:
    assert " 0 bad" in run("guard.py", "--seconds", "4")


def test_runs_that_are_killed_at_a_random_moment() -> None:
    assert " 0 bad" in run("kill.py", "--seconds", "1", "--verbs", "convert", "make", "golden", "compare")


# --- Whether they would notice ------------------------------------------------------------------------------

TOUCH = """
import sys, random, numpy as np
sys.path[:0] = sys.argv[1:3]
from pages import PAGE, Slot
slot = Slot(PAGE)
held = slot.hold(np.zeros(8, np.float32), writable={writable}, at_end={at_end}, shift=0)
wide = np.lib.stride_tricks.as_strided(held[{first}:], (9,), (4,), writeable=True)
{touch}
"""
FAULTS = {
    "a read behind the end": {"writable": True, "at_end": True, "first": 0, "touch": "wide[8].item()"},
    "a write behind the end": {"writable": True, "at_end": True, "first": 0, "touch": "wide[8] = 1"},
    "a write into an input": {"writable": False, "at_end": True, "first": 0, "touch": "wide[0] = 1"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_pages_end_a_process_that_touches_them(fault: str) -> None:
    code = TOUCH.format(**FAULTS[fault])
    done = subprocess.run(
        [sys.executable, "-c", code, PROGRAMS, PROGRAMS.parent], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr


def test_bytes_beside_an_array_are_looked_at() -> None:
    from pages import PAGE, Slot

    slot = Slot(PAGE)
    held = slot.hold(np.zeros(8, np.float32), writable=True, at_end=True, shift=2)
    held[:] = 1
    assert slot.is_whole()
    slot.bytes[-3] ^= 1
    assert not slot.is_whole()


def test_every_function_of_the_core_is_called_between_pages() -> None:
    import guard_calls
    import sizes

    functions = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")}
    others = sizes.WITHOUT | guard_calls.WITHIN | guard_calls.WITHOUT
    assert functions - others == set(guard_calls.CALLS)


def test_a_reader_that_writes_or_fails_is_noticed(tmp_path: Path) -> None:
    code = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import fuzz
target = fuzz.Target(lambda f: None, ("*",), lambda f, p: (f / "new").write_text(""))
place, watch = Path(sys.argv[3]), fuzz.Watch()
print(fuzz._read(target, place, place, watch)[:13])
print(fuzz._read(target._replace(writes=("new",)), place, place, watch)[:13])
for error in (KeyError("x"), MemoryError(), ValueError("x")):
    def read(folder, path):
        raise error
    print(fuzz._read(target._replace(read=read), place, place, watch).split(":")[0])
"""
    command = [sys.executable, "-c", code, PROGRAMS, PROGRAMS.parent, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["not only read", "", "KeyError", "MemoryError", ""]


@pytest.mark.parametrize("name", ["x.json", "x.safetensors", "x.npz", "x.npy", "x.jsonl", "x.pt"])
def test_mutations_differ_and_repeat(name: str, tmp_path: Path) -> None:
    from mutations import mutated

    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    np.save(tmp_path / "x.npy", np.zeros(3))
    good = {
        "x.json": json.dumps({"a": [1, {"b": "c"}]}).encode(),
        "x.jsonl": b'{"a": 1}\n{"b": 2}\n',
        "x.safetensors": (len(b'{"a":{}}')).to_bytes(8, "little") + b'{"a":{}}',
        "x.npy": (tmp_path / "x.npy").read_bytes(),
    }.get(name, (tmp_path / "x.npz").read_bytes())
    found = [[mutated(name, good, random.Random(i)) for i in range(50)] for _ in range(2)]
    assert found[0] == found[1]
    assert len({*found[0], good}) > 40
