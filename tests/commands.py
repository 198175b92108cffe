"""Calls of the command line: in this process, or in one of its own that is stopped half-way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


def stopped(code: str, *args: str, after: int, by: signal.Signals, folder: Path) -> tuple[int, str, str]:
    """Run code in a process of its own and stop it when it has written so many lines with "done"."""
    start = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background
    )
    with subprocess.Popen(
        [sys.executable, "-c", start + code, *args],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stderr is not None
        for _ in range(after):
            assert "done" in job.stderr.readline()
        time.sleep(0.1)
        job.send_signal(by)
        out, err = job.communicate(timeout=60)
    return job.returncode, out, err
