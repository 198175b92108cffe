"""The core under the address sanitizer: its own tests, and programs that call it from Python.

    python tests/endurance/asan.py            # build both, then everything (a quarter of an hour)
    python tests/endurance/asan.py --only guard fuzz

Stable Rust instruments with RUSTC_BOOTSTRAP=1. Covered: reads and writes beyond arrays and boxes on the heap
(NumPy's too, as the allocator is replaced), beyond locals and constants, after they were freed, and double
frees, in all code of the core and of the crates that it is linked with. Not covered: Rust's own library,
which comes compiled, Python and NumPy themselves, and leaks. Python is started with gcc's libasan loaded.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import record

ROOT = Path(__file__).parents[2]
TARGET = f"{platform.machine()}-unknown-linux-gnu"
OPTIONS = "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0:exitcode=66"
TESTS = ("attention", "coded", "interrupt", "logfmt")
"""Rust tests beside those in `src`; products, which take hours so, are called by `guard`."""
PROGRAMS = {
    "guard": ("guard.py", "--seconds", "60"),
    "sizes": ("sizes.py", "--count", "5000"),
    "fuzz": ("fuzz.py", "--seconds", "60", "--targets", "safetensors", "dialects", "words", "saved"),
}


def built(folder: Path) -> dict[str, str]:
    """Environment of an instrumented build."""
    flags = "-Zsanitizer=address -Cforce-frame-pointers=yes"
    return os.environ | {
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": flags,
        "RUSTDOCFLAGS": flags,
        "CARGO_TARGET_DIR": str(folder),
        "ASAN_OPTIONS": OPTIONS,
        "PYO3_PYTHON": sys.executable,
    }


def run(command: list[str], environment: dict[str, str], name: str) -> str:
    """Run one of the parts; its last line. A report of the sanitizer ends the program."""
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-6000:], sep="\n", file=sys.stderr)
        raise SystemExit(f"{name}: exit code {done.returncode}")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def rust_tests(folder: Path) -> str:
    """Run the core's own tests."""
    chosen = [word for name in TESTS for word in ("--test", name)]
    command = ["cargo", "test", "--target", TARGET, "--lib", *chosen, "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=built(folder), text=True, capture_output=True, check=False)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-6000:], sep="\n", file=sys.stderr)
        raise SystemExit(f"cargo test: exit code {done.returncode}")
    passed = sum(
        int(line.split()[3]) for line in done.stdout.splitlines() if line.startswith("test result: ok")
    )
    return f"{passed} Rust tests passed"


def package(folder: Path, place: Path) -> dict[str, str]:
    """Build the extension and put it into a copy of the package; the environment to run it in."""
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], text=True, capture_output=True, check=True
    ).stdout.strip()
    if not Path(library).is_absolute():
        raise SystemExit("gcc has no libasan.so: install gcc's sanitizers; nothing was checked")
    command = ["cargo", "build", "--profile", "develop", "--lib", "--features", "python", "--target", TARGET]
    run([*command, "--quiet"], built(folder), "cargo build")
    shutil.copytree(ROOT / "python" / "dsv3_numerics", place / "dsv3_numerics")
    made = folder / TARGET / "develop" / "libdsv3_numerics.so"
    shutil.copyfile(made, place / "dsv3_numerics" / "_core.abi3.so")
    return os.environ | {
        "LD_PRELOAD": str(Path(library).resolve()),
        "ASAN_OPTIONS": OPTIONS,
        "PYTHONPATH": str(place),
        "PYTHONMALLOC": "malloc",  # or Python's own pools hide its small blocks
    }


def main() -> int:
    """Command line; one line for each part, exit code 1 at the first report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=("rust", *PROGRAMS), default=["rust", *PROGRAMS])
    default = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "asan"
    parser.add_argument("--target-dir", type=Path, default=default)
    parser.add_argument("--write", action="store_true", help=f"record the outcome in {record.RESULT.name}")
    options = parser.parse_args()
    begin, told = time.monotonic(), []
    if "rust" in options.only:
        told.append(rust_tests(options.target_dir))
        print(told[-1], flush=True)
    programs = [name for name in PROGRAMS if name in options.only]
    if programs:
        with tempfile.TemporaryDirectory() as place:
            environment = package(options.target_dir, Path(place))
            for name in programs:
                program, *words = PROGRAMS[name]
                line = run(
                    [sys.executable, str(Path(__file__).with_name(program)), *words], environment, name
                )
                told.append(f"{name}: {line}")
                print(told[-1], flush=True)
    if options.write:
        did = f"address sanitizer, {time.monotonic() - begin:.0f} s: {'; '.join(told)}"
        record.write("make asan", did, "0 reports")
    return 0


if __name__ == "__main__":
    sys.exit(main())
