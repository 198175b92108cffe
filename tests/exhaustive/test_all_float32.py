"""All 2^32 float32 inputs of two formats in CI; the other formats by `make exhaustive`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).with_name("sweep.py")


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", ["float8_e4m3fn", "float8_e5m2"])
def test_every_float32_encodes_as_ml_dtypes_does(fmt: str) -> None:
    """Nearest even, overflow to NaN or Inf: what `astype` of ml_dtypes defines."""
    command = [sys.executable, str(SWEEP), "--formats", fmt, "--overflow", "nonfinite"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["inputs"] == 2**32
    assert set(outcome["mismatches"].values()) == {0}
    assert len(outcome["mismatches"]) == 1
