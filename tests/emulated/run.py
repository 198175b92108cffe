"""Builds the core for 64-bit ARM and runs it under qemu: tests, every float32, instruction counts.

    python tests/emulated/run.py test    # the Rust tests; records RESULT.md
    python tests/emulated/run.py sweep   # every float32 of two formats, codes compared; records RESULT.md
    python tests/emulated/run.py count   # instructions an element; writes bench/results/neon.md
    python tests/emulated/run.py wheel   # a wheel in dist/, linked by zig; needs maturin[zig], auditwheel

Needs a Rust compiler with the standard library of the target, a cross linker and qemu's user emulation;
nothing of the package and no library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULT = HERE / "RESULT.md"
RECORD = HERE / "result.json"
COUNTS = ROOT / "bench" / "results" / "neon.md"
TARGET = "aarch64-unknown-linux-gnu"
LINKER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"

NEEDS = f"""\
{{missing}} missing. What is needed, and where Debian has it:

    dpkg --add-architecture arm64 && apt-get update
    apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
    rustup target add {TARGET}                            # or Debian's own compiler:
    apt-get install rustc-web libstd-rust-web-dev libstd-rust-web-dev:arm64   # and RUSTC=/usr/bin/rustc
"""


SWEPT = """\
Codes of `neon` under emulation beside those of `scalar` on the machine that emulates, which the
[exhaustive sweep](../exhaustive/RESULT.md) holds against ml_dtypes. A stripe is 2^26 float32; what is
compared is a digest of its codes.
"""

COUNTED = """\
# Instructions of NEON beside the scalar level: counts, no times

Written by `make arm-count`: rustc {rustc}, qemu {qemu}. Instructions that an emulator counts, two runs of a
kernel less one, an element (of products: a multiplication). They say nothing of speed: an instruction may
take one cycle or twenty. The scalar level, too, is compiled to NEON, as far as the compiler sees how.
The bar, for casts and quantizers: at most {bar} of the scalar level's.
"""


def compilers() -> list[str]:
    """Rust compilers to try: the one asked for, or the first on the path, then Debian's."""
    asked = os.environ.get("RUSTC")
    return [asked] if asked else ["rustc", "/usr/bin/rustc"]


def targets(rustc: str) -> bool:
    """Tests if a compiler has the standard library of the target."""
    if shutil.which(rustc) is None:
        return False
    command = [rustc, "--print", "target-libdir", "--target", TARGET]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.returncode == 0 and any(Path(found.stdout.strip()).glob("libstd-*.rlib"))


def environment(tools: tuple[str, ...] = (LINKER, EMULATOR)) -> dict[str, str]:
    """The variables under which cargo builds and runs for the target; exits where a tool is missing."""
    rustc = next(filter(targets, compilers()), None)
    missing = [] if rustc else [f"the standard library of {TARGET}"]
    missing += [tool for tool in tools if shutil.which(tool) is None]
    if rustc is None or missing:
        raise SystemExit(NEEDS.format(missing=", ".join(missing)))
    name = TARGET.upper().replace("-", "_")
    # Statically linked: threads of dynamically linked programs hang in qemu 7.2.
    return {
        **os.environ,
        "RUSTC": rustc,
        "RUSTFLAGS": "-C target-feature=+crt-static -D warnings",
        f"CARGO_TARGET_{name}_LINKER": LINKER,
        f"CARGO_TARGET_{name}_RUNNER": EMULATOR,
        "CARGO_TERM_PROGRESS_WHEN": "never",
    }


def version(command: str) -> str:
    """The version that a program tells of itself."""
    out = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+\.\d+(\.\d+)?", out)[0]  # type: ignore[index]


def record(part: str, value: object, env: dict[str, str], note: str = "") -> None:
    """Keeps the outcome of one part and writes the page of all."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    about = {"rustc": version(env["RUSTC"]), "qemu": version(EMULATOR), "note": note}
    known[part] = {**about, "outcome": value}
    RECORD.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    RESULT.write_text(markdown(known))


def markdown(known: dict) -> str:
    """The record: what ran, under what, and how it ended."""
    lines = ["# The core on 64-bit ARM, emulated", ""]
    lines += [
        "Written by `make arm-test` and `make arm-sweep`: the core, built for `aarch64`, run under qemu.",
        "",
    ]
    if (tests := known.get("test")) is not None:
        lines += [f"## Rust tests (rustc {tests['rustc']}, qemu {tests['qemu']})", ""]
        lines += ["The tests compare every level that there is, `scalar` and `neon`, byte for byte.", ""]
        lines += [tests["note"], ""] if tests["note"] else []
        lines += ["| tests | passed | failed |", "|---|---|---|"]
        lines += [f"| {name} | {passed} | {failed} |" for name, passed, failed in tests["outcome"]]
        lines += [""]
    if (sweep := known.get("sweep")) is not None:
        lines += [f"## Every float32 (rustc {sweep['rustc']}, qemu {sweep['qemu']})", ""]
        lines += [SWEPT, *([sweep["note"], ""] if sweep["note"] else [])]
        lines += ["| format | overflow | stripes of 64 | that differ |", "|---|---|---|---|"]
        lines += [f"| {fmt} | {mode} | {ran} | {differ} |" for fmt, mode, ran, differ in sweep["outcome"]]
        lines += [""]
    return "\n".join(lines)


def test(env: dict[str, str]) -> int:
    """Runs the Rust tests; 1 if any failed."""
    command = ["cargo", "test", "--target", TARGET, "--no-fail-fast"]
    ran = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    name, rows = "?", []
    assert ran.stdout is not None
    for line in ran.stdout:
        print(line, end="", flush=True)
        if started := re.search(r"Running (?:unittests )?(\S+)|(Doc-tests)", line):
            name = started[1] or "documentation"
        if ended := re.match(r"test result: \S+ (\d+) passed; (\d+) failed", line):
            rows.append((name, int(ended[1]), int(ended[2])))
    code = ran.wait()
    if rows:
        record("test", rows, env)
    return int(code != 0 or not rows)


def built(env: dict[str, str], name: str, target: bool) -> Path:
    """An example, built for the target or for this machine."""
    command = [
        "cargo",
        "build",
        "--release",
        "--example",
        name,
        "--message-format",
        "json-render-diagnostics",
    ]
    if target:
        command += ["--target", TARGET]
    else:
        env = {k: v for k, v in env.items() if k not in ("RUSTC", "RUSTFLAGS") or os.environ.get(k) == v}
    out = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = [json.loads(line).get("executable") for line in out.splitlines()]
    return Path(next(path for path in made if path and Path(path).name == name))


def digests(command: list[str], stripes: range) -> list[str]:
    """One line for each stripe."""
    out = subprocess.run(
        [*command, str(stripes.start), str(len(stripes))], stdout=subprocess.PIPE, text=True, check=True
    )
    return out.stdout.splitlines()


def sweep(env: dict[str, str], formats: list[str], stripes: range) -> int:
    """Compares codes of every float32; 1 if any stripe differs."""
    here, there = built(env, "sweep", target=False), built(env, "sweep", target=True)
    rows = []
    for fmt in formats:
        for mode in ("nonfinite", "saturate"):
            differ = 0
            for stripe in stripes:
                one = range(stripe, stripe + 1)
                differ += digests([str(here), "scalar", fmt, mode], one) != digests(
                    [EMULATOR, str(there), "neon", fmt, mode], one
                )
                print(f"{fmt} {mode}: stripe {stripe}, {differ} differ", flush=True)
            rows.append((fmt, mode, len(stripes), differ))
    record("sweep", rows, env)
    return int(any(row[3] for row in rows))


def instructions(plugin: Path, program: Path, name: str, level: str, repeats: int) -> int:
    """Instructions that a program runs, start to end."""
    command = [EMULATOR, "-plugin", str(plugin), str(program), name, level, str(repeats)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"^instructions (\d+)$", ran.stderr, re.M)[1])  # type: ignore[index]


BAR = 0.35
BARRED = ("cast ", "quantize ")


def count(env: dict[str, str], write: bool) -> int:
    """Counts instructions an element."""
    program = built(env, "kernels", target=True)
    listed = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, check=True).stdout
    lines = [
        COUNTED.format(rustc=version(env["RUSTC"]), qemu=version(EMULATOR), bar=BAR),
        "| kernel | scalar | neon | neon / scalar | bar |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "instructions.so"
        subprocess.run(
            ["cc", "-O2", "-fPIC", "-shared", "-o", str(plugin), str(HERE / "instructions.c")], check=True
        )
        for line in listed.splitlines():
            elements, name = line.split(" ", 1)
            each = []
            for level in ("scalar", "neon"):
                few, more = (instructions(plugin, program, name, level, n) for n in (1, 2))
                each.append((more - few) / int(elements))
            ratio = each[1] / each[0]
            verdict = "" if not name.startswith(BARRED) else "pass" if ratio <= BAR else "missed"
            lines.append(f"| {name} | {each[0]:.2f} | {each[1]:.2f} | {ratio:.2f} | {verdict} |")
            print(lines[-1], flush=True)
    if write:
        COUNTS.write_text("\n".join([*lines, ""]))
    return 0


def wheel(env: dict[str, str]) -> int:
    """Builds a wheel for Linux on the target and prints what it asks of the system it runs on."""
    folder = ROOT / "dist"
    env = {k: v for k, v in env.items() if k != "RUSTFLAGS" and not k.startswith("CARGO_TARGET_AARCH64")}
    command = ["-m", "maturin", "build", "--release", "--zig", "--target", TARGET, "--out", str(folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=env, check=True)
    made = max(folder.glob("*aarch64.whl"), key=lambda path: path.stat().st_mtime)
    return subprocess.run([sys.executable, "-m", "auditwheel", "show", str(made)], check=False).returncode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("test", "sweep", "count", "wheel"))
    parser.add_argument("--formats", nargs="+", default=["float8_e4m3fn", "float8_e5m2"])
    parser.add_argument("--stripes", type=int, nargs=2, default=(0, 64), help="first and number, of 64")
    parser.add_argument("--dry", action="store_true", help="count: write no file")
    options = parser.parse_args()
    if options.part == "wheel":
        return wheel(environment(tools=()))
    env = environment()
    if options.part == "test":
        return test(env)
    if options.part == "sweep":
        first, number = options.stripes
        return sweep(env, options.formats, range(first, first + number))
    return count(env, not options.dry)


if __name__ == "__main__":
    sys.exit(main())
