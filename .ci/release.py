"""Makes what a release ships and tries it: ``python .ci/release.py FOLDER [--repository URL]``.

1. A source distribution of what git tracks, and a wheel for any Linux of the last decade, built from that
   distribution, not from the checkout.
2. ``twine check`` of both, ``auditwheel`` of the wheel, its size, and the licences in it.
3. For every CPython on the machine: an empty environment, the wheel installed, first answers, timed, and a
   part of the tests.

The address of the repository is known where the project is hosted, not here: with ``--repository`` the
metadata get their links, and those of the README become absolute.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST_WHEEL = 8_000_000
POLICY = "manylinux_2_17"
LICENCES = ("LICENSE", "THIRD_PARTY_LICENSES.txt")
SMOKE = (
    "tests/unit/test_coded_arrays.py",
    "tests/unit/test_demo.py",
    "tests/unit/test_schemes.py",
    "tests/golden/test_accumulation.py",
    "tests/golden/test_vectors.py",
    "tests/docs/test_site.py",
)
FIRST_ANSWERS = (
    ("import", ["-c", "import dsv3_numerics as d3; print(d3.encode([0.1], 'e4m3'))"]),
    ("values of a format", ["-m", "dsv3_numerics", "formats", "e4m3"]),
    ("study of the demo model", ["-m", "dsv3_numerics", "study", "{demo}", "-s", "mxfp8", "--out", "study"]),
    ("golden vectors", ["-m", "dsv3_numerics", "golden", "suite", "--for", "deepgemm", "--out", "answers"]),
    ("forward, in FP8", ["-m", "dsv3_numerics", "run", "{demo}", "--ids", "1", "--recipe", "deepseek_v3"]),
    ("inspection", ["-m", "dsv3_numerics", "inspect", "{demo}"]),
    ("conversion", ["-m", "dsv3_numerics", "convert", "{demo}", "plain", "--to", "bf16", "--verify"]),
)  # fmt: skip
DEMO = "from dsv3_numerics.model import demo_checkpoint; print(demo_checkpoint())"


def run(*command: str | Path, **options: object) -> str:
    """Run a command that has to succeed; return what it printed."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    if done.returncode:
        print(done.stdout)
        raise SystemExit(f"FAILED: {' '.join(str(part) for part in command)}")
    return str(done.stdout)


def stage(folder: Path, repository: str) -> None:
    """Copy what git tracks, as it stands; stamp the repository's address where it is known."""
    for name in run("git", "-c", "safe.directory=*", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    if not repository:
        print("no --repository: the metadata have no links, and those of the README stay relative")
        return
    version = tomllib.loads((folder / "Cargo.toml").read_text())["package"]["version"]
    stamp(folder, repository.rstrip("/"), f"v{version}")


def stamp(folder: Path, repository: str, tag: str) -> None:
    """Write the links of the metadata, and make those of the README absolute."""
    if not re.fullmatch(r"https://[\w./-]+", repository):
        raise SystemExit(f"--repository: found {repository!r}, expected https://HOST/OWNER/NAME")
    project = folder / "pyproject.toml"
    links = {
        "Homepage": repository,
        "Source": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    lines = "".join(f'{name} = "{address}"\n' for name, address in links.items())
    text = project.read_text()
    marker = "[project.scripts]\n"
    if "[project.urls]" in text or marker not in text:
        raise SystemExit("pyproject.toml: no place for [project.urls]")
    project.write_text(text.replace(marker, f"[project.urls]\n{lines}\n{marker}"))
    readme = folder / "README.md"
    readme.write_text(absolute(readme.read_text(), repository, tag))


def absolute(text: str, repository: str, tag: str) -> str:
    """Make the links of a page of the top folder absolute; pictures go to the file itself."""
    text = re.sub(r"(!\[[^\]]*\])\((?!https?:)([^)#]+)\)", rf"\1({repository}/raw/{tag}/\2)", text)
    return re.sub(r"(?<!!)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)", rf"\1({repository}/blob/{tag}/\2)", text)


def build(source: Path, work: Path, dist: Path) -> tuple[Path, Path]:
    """Build the source distribution, and from it the wheel."""
    maturin = [sys.executable, "-m", "maturin"]
    run(*maturin, "sdist", "--out", dist, cwd=source)
    (sdist,) = dist.glob("*.tar.gz")
    shutil.unpack_archive(sdist, work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    flags = run(source / ".ci" / "rustflags", cwd=unpacked).strip()
    env = os.environ | {"RUSTFLAGS": flags, "CARGO_TERM_PROGRESS_WHEN": "never"}
    env.setdefault("CARGO_TARGET_DIR", str(ROOT / "target"))
    # A tenth smaller; a build of one's own rather takes all processors.
    env |= {"CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "1", "CARGO_PROFILE_RELEASE_LTO": "fat"}
    # where maturin looks for `python3 -m ziglang`
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    options = ["--zig", "--compatibility", "manylinux2014"] if platform.system() == "Linux" else []
    run(*maturin, "build", "--release", "--locked", *options, "--out", dist, cwd=unpacked, env=env)
    (wheel,) = dist.glob("*.whl")
    repack(wheel)
    return sdist, wheel


def repack(wheel: Path) -> None:
    """Compress a wheel anew, as far as its format goes: a fiftieth smaller, in a minute or three."""
    from zopfli import ZipFile

    packed = wheel.with_suffix(".packed")
    with zipfile.ZipFile(wheel) as old, ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info, old.read(info))
    packed.replace(wheel)


def check(sdist: Path, wheel: Path) -> None:
    """Hold both files against what a package index, and an old system, ask for."""
    print(run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel).strip())
    if platform.system() == "Linux":
        told = run(sys.executable, "-m", "auditwheel", "show", wheel)
        if POLICY not in re.sub(r"\s+", " ", told):
            raise SystemExit(f"not a wheel of {POLICY}:\n{told}")
        print(f"auditwheel: {POLICY}")
    if "-cp311-abi3-" not in wheel.name:
        raise SystemExit(f"{wheel.name}: expected one wheel for CPython 3.11 and later")
    size = wheel.stat().st_size
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [name for name in LICENCES if not any(inner.endswith(f"licenses/{name}") for inner in names)]
    if missing or not any(name.endswith(".safetensors") for name in names):
        raise SystemExit(f"{wheel.name}: no {missing or 'demo model'} in it")
    print(f"{wheel.name}: {size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes")


def pythons() -> dict[str, str]:
    """Find every CPython from 3.11 on: on the path, of pyenv, and those that PYTHONS names; by version."""
    candidates = [sys.executable, *os.environ.get("PYTHONS", "").split()]
    for minor in range(11, 20):
        candidates += [found] if (found := shutil.which(f"python3.{minor}")) else []
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += [str(path) for path in sorted(home.glob("versions/*/bin/python"))]
    code = (
        "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys._base_executable,"
        " int(hasattr(sys, '_is_gil_enabled') and not sys._is_gil_enabled()))"
    )
    found = {}
    for candidate in candidates:
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            continue
        name, version, executable, free_threaded = done.stdout.split()
        if name == "cpython" and int(version.split(".")[1]) >= 11 and free_threaded == "0":
            found.setdefault(version, executable)
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def try_out(python: str, wheel: Path, source: Path, work: Path) -> None:
    """Install the wheel into an empty environment, ask for first answers, and run a part of the tests."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "MPLBACKEND": "Agg"}
    work.mkdir()
    begin = time.perf_counter()
    run(python, "-m", "venv", work / "venv", env=env)
    mine = work / "venv" / "bin" / "python"
    run(mine, "-m", "pip", "install", "--quiet", wheel, env=env)
    print(f"  environment and pip install: {time.perf_counter() - begin:.1f} s")
    run(mine, "-m", "pip", "check", env=env)
    demo = run(mine, "-c", DEMO, cwd=work, env=env).strip()
    for name, arguments in FIRST_ANSWERS:
        start = time.perf_counter()
        run(mine, *(part.replace("{demo}", demo) for part in arguments), cwd=work, env=env)
        print(f"  {name}: {time.perf_counter() - start:.1f} s")
    print(f"  empty environment to all of these: {time.perf_counter() - begin:.1f} s")
    run(mine, "-m", "pip", "install", "--quiet", f"{wheel}[test]", env=env)
    shutil.copytree(source / "tests", work / "source" / "tests")
    for name in ("pyproject.toml", "docs", "README.md", ".ci", "bench"):
        whole = source / name
        (shutil.copytree if whole.is_dir() else shutil.copy2)(whole, work / "source" / name)
    told = run(mine, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SMOKE, cwd=work / "source", env=env)
    print(f"  tests: {told.strip().splitlines()[-1]}")


def main() -> int:
    """Make a release's files, and try them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files go; emptied of earlier ones")
    parser.add_argument("--repository", default="", metavar="URL", help="https://HOST/OWNER/NAME")
    options = parser.parse_args()
    dist = options.folder.resolve()
    dist.mkdir(parents=True, exist_ok=True)
    for old in [*dist.glob("*.whl"), *dist.glob("*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "source"
        stage(source, options.repository)
        sdist, wheel = build(source, work, dist)
        check(sdist, wheel)
        for version, python in pythons().items():
            print(f"CPython {version}")
            try_out(python, wheel, source, work / version)
    if (size := wheel.stat().st_size) > LARGEST_WHEEL:
        raise SystemExit(f"FAILED: {wheel.name}: {size:,} bytes, expected at most {LARGEST_WHEEL:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
