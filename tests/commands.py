"""Calls of the command line: in this process, or in one of its own that is stopped half-way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3_numerics import cli

STOPS = {signal.SIGINT: (130, "interrupted by the user")}
if sys.platform != "win32":
    STOPS[signal.SIGTERM] = (143, "terminated by the system")
"""Exit code and words of each signal that stops a run."""


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


# Gives code `done`, which says "done" on standard error and at the last of so many waits for the signal: its
# arrival, in whatever thread, writes into the pipe, so that neither side can be late.
_PACED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background
_arrived, _handler = os.pipe()
os.set_blocking(_handler, False)
signal.set_wakeup_fd(_handler)
_left = int(sys.argv.pop(1))
def done(*words):
    global _left
    _left -= 1
    print("done", *words, file=sys.stderr, flush=True)
    if _left == 0:
        os.read(_arrived, 1)
"""


def stopped(code: str, *args: str, after: int, by: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """Run code in a process of its own and stop it where it calls ``done(...)`` for the `after`-th time."""
    with subprocess.Popen(
        [sys.executable, "-c", _PACED + code, str(after), *args],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stderr is not None
        for _ in range(after):
            assert "done" in job.stderr.readline()
        job.send_signal(by)
        out, err = job.communicate(timeout=300)
    return job.returncode, out, err
