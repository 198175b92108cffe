"""Builds the core for 64-bit ARM and runs it under qemu: tests, every float32, instruction counts.

    python tests/emulated/run.py test    # the Rust tests; records RESULT.md
    python tests/emulated/run.py sweep   # every float32 of two formats, codes compared; records RESULT.md
    python tests/emulated/run.py count   # instructions an element; writes bench/results/neon.md
    python tests/emulated/run.py wheel   # a wheel in dist/, linked by zig; needs maturin[zig], auditwheel
    python tests/emulated/run.py python  # the Python tests, of that wheel; needs Debian's apt-get and pip

Needs a Rust compiler with the standard library of the target, a cross linker and qemu's user emulation;
nothing of the package and no library.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
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

PYTHON_RAN = """\
Debian's CPython for `arm64`, wheels for `aarch64` of NumPy and of what else is needed, and the wheel of
`make arm-wheel`, all under emulation; one thread, as threads may hang in this emulator.
"""

COUNTED = """\
# Instructions of NEON beside the scalar level: counts, no times

Written by `make arm-count`: rustc {rustc}, qemu {qemu}. Instructions that an emulator counts, two runs of a
kernel less one, an element (of products: a multiplication). They say nothing of speed: an instruction may
take one cycle or twenty. The scalar level as we ship it is compiled to NEON, too, as far as the compiler sees
how; `one by one` is the same source with that turned off, one number to an instruction.
The bar, for casts and quantizers: at most {bar} of the scalar level's, given for both.
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


def record(part: str, value: object, **about: str) -> None:
    """Keeps the outcome of one part and writes the page of all."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known[part] = {"qemu": version(EMULATOR), "note": "", **about, "outcome": value}
    RECORD.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    RESULT.write_text(markdown(known))


def markdown(known: dict) -> str:
    """The record: what ran, under what, and how it ended."""
    lines = ["# The core on 64-bit ARM, emulated", ""]
    lines += [
        "Written by `make arm-test`, `make arm-sweep` and `make arm-python`: the core, built for `aarch64`,",
        "and the package, run under qemu.",
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
    if (python := known.get("python")) is not None:
        lines += [f"## Python tests (CPython {python['python']}, qemu {python['qemu']})", "", PYTHON_RAN]
        lines += [python["note"], ""] if python["note"] else []
        lines += ["| tests | passed | skipped | failed | |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(str, row))} |" for row in python["outcome"]]
        lines += [""]
    return "\n".join(lines)


def test(env: dict[str, str]) -> int:
    """Runs the Rust tests; 1 if any failed."""
    # Without those in documentation: the rustdoc beside Debian's compiler is of another version.
    command = ["cargo", "test", "--target", TARGET, "--no-fail-fast", "--tests"]
    ran = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    name, rows = "?", []
    assert ran.stdout is not None
    for line in ran.stdout:
        print(line, end="", flush=True)
        if started := re.search(r"Running (?:unittests )?(\S+)", line):
            name = started[1]
        if ended := re.match(r"test result: \S+ (\d+) passed; (\d+) failed", line):
            rows.append((name, int(ended[1]), int(ended[2])))
    code = ran.wait()
    if rows:
        record("test", rows, rustc=version(env["RUSTC"]))
    return int(code != 0 or not rows)


UNVECTORISED = "-C no-vectorize-loops -C no-vectorize-slp"


def built(env: dict[str, str], name: str, target: bool, flags: str = "") -> Path:
    """An example, built for the target or for this machine; with flags, in a folder of its own."""
    command = [
        "cargo",
        "build",
        "--release",
        "--example",
        name,
        "--message-format",
        "json-render-diagnostics",
    ]
    if flags:
        folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "flags"
        env = {**env, "RUSTFLAGS": f"{env['RUSTFLAGS']} {flags}", "CARGO_TARGET_DIR": str(folder)}
    if target:
        command += ["--target", TARGET]
    else:
        env = {k: v for k, v in env.items() if k not in ("RUSTC", "RUSTFLAGS") or os.environ.get(k) == v}
    out = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = [json.loads(line).get("executable") for line in out.splitlines()]
    return Path(next(path for path in made if path and Path(path).name == name))


def digest(command: list[str], stripe: int) -> str:
    """The line of one stripe."""
    out = subprocess.run([*command, str(stripe), "1"], stdout=subprocess.PIPE, text=True, check=True)
    return out.stdout.strip()


class Journal:
    """Stripes that two builds agreed or differed on, kept as they end."""

    def __init__(self, *builds: Path) -> None:
        name = hashlib.sha256(b"".join(build.read_bytes() for build in builds)).hexdigest()[:16]
        self.path = builds[0].parent / f"sweep-{name}.json"
        self.differ: dict[str, bool] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, stripe: str, differ: bool) -> None:
        """Keeps the outcome of a stripe."""
        self.differ[stripe] = differ
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.differ))
        fresh.replace(self.path)

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Stripes that ran, and those of them that differ, of each format and way of overflow."""
        parts = dict.fromkeys(stripe.rsplit(" ", 1)[0] for stripe in self.differ)
        found = (
            [differ for stripe, differ in self.differ.items() if stripe.startswith(part)] for part in parts
        )
        return [(*part.split(" "), len(each), sum(each)) for part, each in zip(parts, found, strict=True)]  # type: ignore[misc]


def sweep(env: dict[str, str], formats: list[str], stripes: range) -> int:
    """Compares codes of every float32; 1 if any stripe differs. After Ctrl-C, the next run goes on there."""
    here, there = built(env, "sweep", target=False), built(env, "sweep", target=True)
    journal = Journal(here, there)
    scalar, neon = [str(here), "scalar"], [EMULATOR, str(there), "neon"]
    try:
        for fmt, mode, stripe in itertools.product(formats, ("nonfinite", "saturate"), stripes):
            name = f"{fmt} {mode} {stripe}"
            if name not in journal.differ:
                one, other = (digest([*command, fmt, mode], stripe) for command in (scalar, neon))
                journal.add(name, one != other)
                print(name, "differs" if one != other else "same", flush=True)
    except KeyboardInterrupt:
        print("stopped; the next run goes on here")
    record("sweep", journal.rows(), rustc=version(env["RUSTC"]))
    return int(any(journal.differ.values()))


def instructions(plugin: Path, program: Path, name: str, level: str, repeats: int) -> int:
    """Instructions that a program runs, start to end."""
    command = [EMULATOR, "-plugin", str(plugin), str(program), name, level, str(repeats)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"^instructions (\d+)$", ran.stderr, re.M)[1])  # type: ignore[index]


BAR = 0.35
BARRED = ("cast ", "quantize ")


def count(env: dict[str, str], write: bool) -> int:
    """Counts instructions an element."""
    shipped = built(env, "kernels", target=True)
    plain = built(env, "kernels", target=True, flags=UNVECTORISED)
    listed = subprocess.run([EMULATOR, str(shipped)], capture_output=True, text=True, check=True).stdout
    lines = [
        COUNTED.format(rustc=version(env["RUSTC"]), qemu=version(EMULATOR), bar=BAR),
        "| kernel | one by one | scalar | neon | neon / one by one | | neon / scalar | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "instructions.so"
        subprocess.run(
            ["cc", "-O2", "-fPIC", "-shared", "-o", str(plugin), str(HERE / "instructions.c")], check=True
        )
        for line in listed.splitlines():
            elements, name = line.split(" ", 1)
            each = []
            for program, level in ((plain, "scalar"), (shipped, "scalar"), (shipped, "neon")):
                few, more = (instructions(plugin, program, name, level, n) for n in (1, 2))
                each.append((more - few) / int(elements))
            cells = [name, *(f"{count:.2f}" for count in each)]
            for ratio in (each[2] / each[0], each[2] / each[1]):
                verdict = "" if not name.startswith(BARRED) else "pass" if ratio <= BAR else "missed"
                cells += [f"{ratio:.2f}", verdict]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if write:
        remarks = COUNTS.read_text().partition("\n## ")[1:]  # sections behind the table are written by hand
        COUNTS.write_text("\n".join([*lines, "".join(remarks)]))
    return 0


def wheel(env: dict[str, str]) -> int:
    """Builds a wheel for Linux on the target and prints what it asks of the system it runs on."""
    folder = ROOT / "dist"
    env = {k: v for k, v in env.items() if k != "RUSTFLAGS" and not k.startswith("CARGO_TARGET_AARCH64")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # where zig is
    command = ["-m", "maturin", "build", "--release", "--zig", "--target", TARGET, "--out", str(folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=env, check=True)
    made = max(folder.glob("*aarch64.whl"), key=lambda path: path.stat().st_mtime)
    return subprocess.run([sys.executable, "-m", "auditwheel", "show", str(made)], check=False).returncode


PACKAGES = (
    *(
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libc6",
        "libgcc-s1",
        "libstdc++6",
    ),
    *("zlib1g", "libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1"),
)
REQUIREMENTS = (
    *("numpy>=2", "ml_dtypes", "click", "rich", "markdown-it-py", "matplotlib"),
    *("pytest", "hypothesis", "safetensors"),
)
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")


def interpreter(folder: Path) -> Path:
    """A script that runs CPython of the target with the package; what it needs is fetched once."""
    system, site, script = folder / "system", folder / "site", folder / "python"
    if not system.exists():
        (folder / "packages").mkdir(parents=True, exist_ok=True)
        names = [f"{package}:arm64" for package in PACKAGES]
        subprocess.run(["apt-get", "download", *names], cwd=folder / "packages", check=True)
        for package in (folder / "packages").glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(system)], check=True)
    if not site.exists():
        command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--python-version", "3.11"]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        subprocess.run([*command, "--dest", str(folder / "wheels"), *REQUIREMENTS], check=True)
        for each in (folder / "wheels").glob("*.whl"):
            zipfile.ZipFile(each).extractall(site)
    made = sorted((ROOT / "dist").glob("*aarch64.whl"), key=lambda path: path.stat().st_mtime)
    if not made:
        raise SystemExit("no wheel of the target in dist/; `make arm-wheel` makes one")
    zipfile.ZipFile(made[-1]).extractall(site)
    # Programs that tests start run under emulation, too.
    (site / "sitecustomize.py").write_text(f"import sys\n\nsys.executable = {str(script)!r}\n")
    # The emulator's own CPU has extensions whose emulation raises flags of arithmetic that no CPU raises.
    known = f"QEMU_CPU=cortex-a72 OPENBLAS_NUM_THREADS=1 DSV3_NUMERICS_THREADS=1 PYTHONPATH={site}"
    run = f"{EMULATOR} -L {system} {system}/usr/bin/python3.11"
    script.write_text(f'#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 {known} exec {run} "$@"\n')
    script.chmod(0o755)
    return script


def python(paths: list[str], seconds: int) -> int:
    """Runs test files under emulation, each for some time at the most; 1 if any test failed."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "arm-python"
    script = interpreter(folder)
    files = [file for path in paths for file in ([path] if path.endswith(".py") else sorted(glob(path)))]
    rows: list[tuple[str, int, int, int, str]] = []
    for file in files:
        command = [str(script), "-m", "pytest", "-v", "-p", "no:cacheprovider", file]
        with (folder / "output.txt").open("w+") as output:
            try:
                ran = subprocess.run(command, cwd=ROOT, check=False, stdout=output, timeout=seconds)
                remark = "" if ran.returncode in (0, 1) else f"exit code {ran.returncode}"
            except subprocess.TimeoutExpired:
                remark = f"stopped after {seconds} s"
            output.seek(0)
            ended = collections.Counter(
                re.findall(r"^tests/.* (PASSED|SKIPPED|FAILED|ERROR)\b", output.read(), re.M)
            )
        failed = ended["FAILED"] + ended["ERROR"]
        rows.append((file, ended["PASSED"], ended["SKIPPED"], failed, remark))
        print(rows[-1], flush=True)
        record("python", rows, python=version(str(script)))
    return int(any(failed or remark for *_, failed, remark in rows))


def glob(folder: str) -> list[str]:
    """The test files of a folder."""
    return [str(path.relative_to(ROOT)) for path in (ROOT / folder).glob("test_*.py")]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("test", "sweep", "count", "wheel", "python"))
    parser.add_argument("--formats", nargs="+", default=["float8_e4m3fn", "float8_e5m2"])
    parser.add_argument("--stripes", type=int, nargs=2, default=(0, 64), help="first and number, of 64")
    parser.add_argument("--tests", nargs="+", default=["tests/unit", "tests/property"], help="for python")
    parser.add_argument("--seconds", type=int, default=3600, help="for python: of a file at the most")
    parser.add_argument("--dry", action="store_true", help="count: write no file")
    options = parser.parse_args()
    if options.part == "wheel":
        return wheel(environment(tools=()))
    if options.part == "python":
        return python(options.tests, options.seconds)
    env = environment()
    if options.part == "test":
        return test(env)
    if options.part == "sweep":
        first, number = options.stripes
        return sweep(env, options.formats, range(first, first + number))
    return count(env, not options.dry)


if __name__ == "__main__":
    sys.exit(main())
