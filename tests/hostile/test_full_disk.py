"""A disk that fills up: every verb names the file and says what to do, and leaves no half file."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3_numerics._atomic import is_temporary, replacing
from dsv3_numerics.model import demo_checkpoint

# Disks say so when they are asked to have it all, at the latest.
FULL = """
import errno, os, sys
def fsync(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = fsync
from dsv3_numerics.cli import main
main(sys.argv[1:])
"""
DEMO = str(demo_checkpoint())
VERBS = {
    "convert": ["convert", DEMO, "{out}", "--to", "bf16"],
    "study": ["study", DEMO, "-s", "bf16", "--include", "*norm*", "--out", "{out}"],
    "golden": ["golden", "quantize", "--out", "{out}"],
    "make": ["make", "{out}", "--config", "tiny"],
    "run": ["run", "--demo", "--ids", "1,2,3", "--out", "{out}/run.npz"],
    "compare": ["compare", DEMO, DEMO, "--html", "{out}/page.html"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_names_the_file(tmp_path: Path, verb: str) -> None:
    out = tmp_path / "out"
    if verb in ("run", "compare"):
        out.mkdir()
    args = [part.format(out=out) for part in VERBS[verb]]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *args], capture_output=True, text=True, check=False, timeout=300
    )
    failed = 2 if verb == "compare" else 1  # where 1 says that files differ
    assert done.returncode == failed, done.stdout + done.stderr
    told = done.stderr.strip().splitlines()[-1]
    assert str(out) in told
    assert "No space left on device" in told
    assert "make space" in told
    assert "Traceback" not in done.stderr
    assert not [path for path in out.rglob("*") if is_temporary(path.name)]


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    """Only a full disk is explained, and only where nobody has named a file yet."""
    for error in (OSError(errno.EIO, "broken"), OSError(errno.ENOSPC, "full", "elsewhere")):
        with pytest.raises(OSError) as found, replacing(tmp_path / "x"):
            raise error
        assert found.value is error
    assert not list(tmp_path.iterdir())
