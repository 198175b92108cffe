"""Files that killed writers leave behind, and who removes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics import Quantized, quantize_tiles
from dsv3_numerics._atomic import begin, discard, ensure_writable, host_tag, is_temporary, publish, replacing
from dsv3_numerics.report.files import write_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and locks of POSIX")

# Writes half a file and stops there: by a kill, or at a line on standard input.
WRITER = """
import os, pathlib, signal, sys
from dsv3_numerics import _atomic
file = _atomic.begin(pathlib.Path(sys.argv[1]), 100)
file.write(0, b"half")
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
print("half", flush=True)
sys.stdin.readline()
file.sync()
_atomic.publish(file, pathlib.Path(sys.argv[1]))
"""


def temporaries(folder: Path) -> list[str]:
    """Names of unfinished files in a folder."""
    return sorted(name for name in os.listdir(folder) if is_temporary(name))


def kill_a_writer(target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, target, "kill"], timeout=300)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("start", ["a file", "a result", "a folder", "an archive"])
def test_the_next_start_removes_what_a_killed_writer_left(tmp_path: Path, start: str) -> None:
    for name in ("x.npz", "other.json"):
        kill_a_writer(tmp_path / name)
    assert 1 <= len(temporaries(tmp_path)) <= 2, "the second writer has seen that of the first"
    assert not any(path.match("*.npz") or path.match("*.json") for path in tmp_path.iterdir())
    if start == "a file":
        with replacing(tmp_path / "new"):
            pass
    elif start == "a result":
        write_json({}, tmp_path / "results.json")
    elif start == "a folder":
        ensure_writable(tmp_path)
    else:
        quantize_tiles(np.ones((4, 128), np.float32)).save(tmp_path / "x.npz")
        assert Quantized.load(tmp_path / "x.npz").shape == (4, 128)
    assert temporaries(tmp_path) == []


def test_a_writer_at_work_keeps_its_file(tmp_path: Path) -> None:
    own = begin(tmp_path / "own")
    command = [sys.executable, "-c", WRITER, tmp_path / "other", "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "half\n"
        assert len(temporaries(tmp_path)) == 2
        ensure_writable(tmp_path)
        with replacing(tmp_path / "third"):
            assert len(temporaries(tmp_path)) == 3
        other.communicate("\n", timeout=300)
    assert other.returncode == 0
    own.sync()
    publish(own, tmp_path / "own")
    assert sorted(os.listdir(tmp_path)) == ["other", "own", "third"]
    assert (tmp_path / "other").read_bytes() == b"half" + bytes(96)


def test_only_files_of_our_own_kind_are_removed(tmp_path: Path) -> None:
    kept = [".x.partial", ".x.0123456789ab.part", "x.0123456789ab.partial", ".x.0123456789AB.partial"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    os.mkfifo(tmp_path / ".pipe.0123456789ab.partial")
    (tmp_path / ".link.0123456789ab.partial").symlink_to(tmp_path / ".x.partial")
    (tmp_path / f".ours.{host_tag()}456789ab.partial").write_text("a leftover")
    tag = f"{int(host_tag(), 16) ^ 1:04x}"  # of another machine, whose locks we may not see
    (tmp_path / f".fresh.{tag}456789ab.partial").write_text("its writer may live")
    (tmp_path / f".old.{tag}456789ab.partial").write_text("a leftover")
    os.utime(tmp_path / f".old.{tag}456789ab.partial", (0, 0))
    discard(begin(tmp_path / "new"))
    others = [".link.0123456789ab.partial", ".pipe.0123456789ab.partial", f".fresh.{tag}456789ab.partial"]
    assert sorted(os.listdir(tmp_path)) == sorted(kept + others)
