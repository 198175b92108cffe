"""The core's own tests under Miri, which checks every access, alignment and value of unsafe code.

    python tests/endurance/miri.py

Miri interprets, so it is slow and knows few of the instructions of AVX: it runs the portable level, in tests
without files. It comes with nightly Rust (``rustup +nightly component add miri rust-src``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import record

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Command line; one line says what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"record the outcome in {record.RESULT.name}")
    options = parser.parse_args()
    try:
        subprocess.run(["cargo", "+nightly", "miri", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print(
            "miri: not in this toolchain (rustup +nightly component add miri rust-src); nothing was checked"
        )
        return 1
    begin = time.monotonic()
    done = subprocess.run(
        ["cargo", "+nightly", "miri", "test", "--lib", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"MIRIFLAGS": "-Zmiri-disable-isolation", "DSV3_NUMERICS_THREADS": "2"},
        text=True,
        capture_output=True,
        check=False,
    )
    result = next((line for line in done.stdout.splitlines() if line.startswith("test result")), "no result")
    print(f"{result} ({time.monotonic() - begin:.0f} s)")
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        return 1
    if options.write:
        record.write(
            "make miri", "the core's unit tests at the portable level, interpreted", result.split(";")[0]
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
