"""Files that anybody may have written, changed at random: no end, no hang, no other error, no file written.

    python tests/endurance/fuzz.py --seconds 600                    # all kinds of files in turn
    python tests/endurance/fuzz.py --targets torch --seconds 60     # one
    python tests/endurance/fuzz.py --trial torch:1234               # one change again, with its traceback
    python tests/endurance/fuzz.py --atheris recipes --seconds 60   # guided by coverage (pip install atheris)

Lives here: the loop. What is read and how it is changed is in `fuzz_targets` and `mutations`. Trials run in
a process with bounded memory; when it ends or hangs, another one goes on behind the trial, which is counted.
An audit hook refuses to write, to start a process, and to open a connection.
"""

from __future__ import annotations

import faulthandler
import fnmatch
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import record

if "--atheris" in sys.argv:  # which instruments what is imported under it
    import atheris  # type: ignore[import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["dsv3_numerics"]):
        import fuzz_targets  # noqa: F401
from fuzz_targets import DOCUMENTED, OUTCOMES, TARGETS, Target
from mutations import mutated

BEFORE = b"\xff" * 8  # the number of a trial, before the first
PATIENCE = 120  # seconds of one trial
MEMORY = 6 << 30  # bytes of address space
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.",
)
_OUTSIDE = (
    "subprocess.",
    "socket.connect",
    "socket.bind",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
)


class Watch:
    """Audit hook that notes what a reader does beside reading, below or outside its folder."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None  # None: not at work
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & _WRITING or isinstance(path, int):
                return
        elif event.startswith(_CHANGES):
            path = args[0]
        elif event.startswith(_OUTSIDE):
            self.seen.append(f"{event}{args!r}"[:300])
            return
        else:
            return
        name = os.path.relpath(os.fsdecode(path) if isinstance(path, str | bytes) else str(path), self.folder)
        parts = [name, *map(str, Path(name).parents)]
        if not any(fnmatch.fnmatch(part, one) for part in parts for one in self.allowed):
            self.seen.append(f"{event} of {name}"[:300])

    @contextmanager
    def over(self, folder: Path, allowed: tuple[str, ...]) -> Iterator[None]:
        """Watch, in a ``with`` block."""
        self.folder, self.seen = str(folder), []
        self.allowed = (*allowed, *(str(Path(one).parent) for one in allowed if "/" in one))
        try:
            yield
        finally:
            self.allowed = None


class Bench:
    """Good files of a target, of which one is changed at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.target = name, TARGETS[name]
        self.folder = folder / name.replace(" ", "-")
        self.folder.mkdir()
        self.target.make(self.folder)
        self.good = {p.relative_to(self.folder): p.read_bytes() for p in _files(self.folder)}
        self.change = [
            path
            for path in self.good
            if any(fnmatch.fnmatch(path.as_posix(), one.replace("**/", "")) for one in self.target.change)
        ]
        assert self.change, name
        self.target.read(self.folder, self.folder / self.change[0])  # good files are read
        self.restore()

    def restore(self) -> None:
        """Put the good files back."""
        for path in _files(self.folder):
            if path.relative_to(self.folder) not in self.good:
                path.unlink()
        for name, content in self.good.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def changed(self, number: int, seed: int) -> tuple[Path, bytes]:
        """Return the file that a trial changes, and its content then."""
        rng = random.Random(f"{seed}/{self.name}/{number}")
        path = rng.choice(self.change)
        return path, mutated(path.name, self.good[path], rng)

    def trial(self, number: int, seed: int, watch: Watch) -> str:
        """Change one file and read the folder; what is wrong, or nothing."""
        name, content = self.changed(number, seed)
        (self.folder / name).write_bytes(content)
        found = _read(self.target, self.folder, self.folder / name, watch)
        if self.target.writes:
            self.restore()
        else:
            (self.folder / name).write_bytes(self.good[name])
        return found


def _read(target: Target, folder: Path, path: Path, watch: Watch) -> str:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        with watch.over(folder, target.writes):
            target.read(folder, path)
        found = ""
    except DOCUMENTED:
        OUTCOMES["refused"] += 1
        found = ""
    except BaseException as error:
        lines = traceback.format_exception(error)
        found = f"{type(error).__name__}: {str(error)[:200]}\n{''.join(lines)[-1500:]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return f"not only read: {watch.seen[:3]}" if watch.seen else found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder, in memory where there is one of that kind."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="dsv3-fuzz-", dir=fast))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- In a process of its own --------------------------------------------------------------------------------


def work(names: list[str], first: int, seed: int, until: float, note: Path) -> None:
    """Do trials from number `first` on, each target in turn; note which, and print what came of it."""
    if sys.platform == "linux" and "ASAN_OPTIONS" not in os.environ:  # whose shadow is larger
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    watch, count = Watch(), first
    with _scratch() as folder, open(note, "r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        benches = [Bench(name, folder) for name in names]
        while time.time() < until or count < first + len(benches):
            bench = benches[count % len(benches)]
            at[:] = count.to_bytes(8, "little")
            found = bench.trial(count, seed, watch)
            count += 1
            print(json.dumps({"target": bench.name, "trial": count - 1, "found": found}), flush=True)
    print(json.dumps({"end": count, **OUTCOMES}), flush=True)


def fuzz(names: list[str], seconds: float, seed: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Do trials for some seconds; counts, and each trial that came out as it must not."""
    counts: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    until, first = time.time() + seconds, 0
    with tempfile.TemporaryDirectory() as place:
        note = Path(place) / "at"
        while first >= 0:
            note.write_bytes(BEFORE)
            command = [
                sys.executable,
                __file__,
                "--work",
                str(first),
                "--seed",
                str(seed),
                "--note",
                str(note),
            ]
            command += ["--until", str(until), "--targets", *names]
            with (Path(place) / "err").open("w+") as err:
                done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
                assert done.stdout is not None
                first = -2
                for line in done.stdout:
                    entry = json.loads(line)
                    if "end" in entry:
                        first = -1
                        counts.update(answered=entry["answered"], refused=entry["refused"])
                        continue
                    counts["files"] += 1
                    if entry["found"]:
                        bad.append(entry)
                        print(f"{entry['target']}:{entry['trial']}: {entry['found']}", file=sys.stderr)
                code = done.wait()
                if first == -2 and note.read_bytes() == BEFORE:
                    err.seek(0)
                    raise RuntimeError(f"good files are not read: {err.read()[-3000:]}")
                if first == -2:  # it ended in the middle of a trial
                    number = int.from_bytes(note.read_bytes(), "little")
                    err.seek(0)
                    told = f"the process ended with {code}: {err.read()[-3000:]}"
                    counts["files"] += 1
                    bad.append({"target": names[number % len(names)], "trial": number, "found": told})
                    print(f"{bad[-1]['target']}:{number}: {told}", file=sys.stderr)
                    first = number + 1 if time.time() < until else -1
    return counts, bad


def again(name: str, number: int, seed: int) -> str:
    """Do one trial in this process."""
    with _scratch() as folder:
        bench = Bench(name, folder)
        path, content = bench.changed(number, seed)
        print(f"{path}: {content[:400]!r}", file=sys.stderr)
        return bench.trial(number, seed, Watch())


def guided(name: str, seconds: float, seed: int) -> None:
    """Let atheris choose the changes to a target's first file, by the code that they reach."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    with _scratch() as folder:
        bench, watch = Bench(name, folder), Watch()
        file = folder / "corpus"
        file.mkdir()
        place = bench.change[0]
        for number, path in enumerate(path for path in bench.change if path.suffix == place.suffix):
            (file / str(number)).write_bytes(bench.good[path])

        def one(data: bytes) -> None:
            (bench.folder / place).write_bytes(data)
            found = _read(bench.target, bench.folder, bench.folder / place, watch)
            if found:
                raise AssertionError(found)

        def change(data: bytes, most: int, number: int) -> bytes:
            if number % 3 == 0:
                return bytes(atheris.Mutate(data, most))
            return mutated(place.name, data, random.Random(number))[:most]

        most = max(1 << 16, 2 * len(bench.good[place]))
        words = [f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={most}", str(file)]
        atheris.Setup([sys.argv[0], *words], one, custom_mutator=change)
        atheris.Fuzz()


def main() -> int:
    """Command line; one line says what came of it, exit code 1 if anything was bad."""
    parser = record.parser(__doc__, works=True)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="NAME")
    parser.add_argument("--trial", metavar="TARGET:NUMBER", help="one trial again")
    parser.add_argument("--atheris", choices=TARGETS, metavar="TARGET", help="let atheris guide the changes")
    options = parser.parse_args()
    if options.work is not None:
        work(options.targets, options.work, options.seed, options.until, options.note)
        return 0
    if options.trial:
        name, _, number = options.trial.rpartition(":")
        found = again(name, int(number), options.seed)
        print(found)
        return int(bool(found))
    if options.atheris:
        guided(options.atheris, options.seconds, options.seed)
        return 0
    start = time.monotonic()
    counts, bad = fuzz(options.targets, options.seconds, options.seed)
    did = (
        f"readings of {counts['files']:,} changed files of {len(options.targets)} kinds, seed {options.seed}"
    )
    ends = {end: counts[end] for end in ("answered", "refused")}
    return record.outcome("make fuzz", did, ends, len(bad), start, into_record=options.write)


if __name__ == "__main__":
    sys.exit(main())
