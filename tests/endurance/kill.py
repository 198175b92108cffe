"""Runs that are killed at a random moment, and the same command again: the files of an undisturbed run.

    python tests/endurance/kill.py --seconds 600

Lives here: `VERBS`, a command that writes for each verb that does, and the loop. A child runs the command and
gets SIGKILL or SIGTERM after a random time, now and then twice; then the command runs to its end. Its files
must be those of an undisturbed run, to the byte but for times; nothing hidden may stay; the source is whole.
SIGTERM must end the command within seconds, with its own exit code and no half files.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import record

from dsv3_numerics import cli
from dsv3_numerics._atomic import is_temporary
from dsv3_numerics.model import Config, random_checkpoint

PATIENCE = 120.0  # seconds until a child counts as hung
GOOD, TERMINATED = 0, 143
_TIMES = re.compile(rb'"seconds": [0-9.e+-]+|\d+(\.\d+)? (s|seconds|minutes)\b|\btime: [^<\n]*')


def _model(folder: Path) -> None:
    random_checkpoint(folder, Config.preset("tiny"), shard_bytes=200_000)


def _arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    np.savez(folder / "w.npz", **{f"t{i}": rng.normal(size=(64, 512)) for i in range(12)})


class Verb(NamedTuple):
    """A command that writes.

    Attributes
    ----------
    source : callable
        Makes what it reads.
    words : str
        The command; ``{src}`` and ``{out}`` are what it reads and writes.
    again : str
        What is added to go on.
    """

    source: Callable[[Path], None]
    words: str
    again: str = ""


VERBS = {
    "convert": Verb(_model, "convert {src} {out} --to bf16", "--resume"),
    "convert to rows": Verb(_model, "convert {src} {out} --to fp8-row --verify --threads 2", "--resume"),
    "convert a file": Verb(
        _model, "convert {src}/model-00001-of-000007.safetensors {out}/x.safetensors --to f32", "--resume"
    ),
    "study": Verb(_arrays, "study {src}/w.npz -s mxfp4 -s nvfp4 --out {out}", "--resume"),
    "sensitivity": Verb(_model, "sensitivity {src} --ids 1,2,3 --only combine --perturbations 1 --out {out}"),
    "make": Verb(_model, "make {out} --weights bf16"),
    "golden": Verb(_arrays, "golden product --out {out} --case normal --case zeros"),
    "golden suite": Verb(_arrays, "golden suite --for deepep --out {out}"),
    "run": Verb(_model, "run {src} --ids 1,2,3 --trace layer* --out {out}/x.npz", "--overwrite"),
    "compare": Verb(_arrays, "compare {src}/w.npz {src}/w.npz --out {out} --html {out}/why.html"),
}
LOADED = ("matplotlib.pyplot", "dsv3_numerics.report.drawing", "dsv3_numerics.study.plots", "rich.progress")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without times."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix in (".json", ".md", ".html", ".txt", ".jsonl"):
            content = _TIMES.sub(b"TIME", content)
        found[path.relative_to(folder).as_posix()] = content
    return found


def start(words: list[str], log: Path) -> int:
    """Run the command in a child of this process, which has loaded everything."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stream = io.TextIOWrapper(log.open("wb"), write_through=True)
        sys.stdout = sys.stderr = stream
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        cli.main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGABRT)
    os.waitpid(child, 0)
    raise AssertionError(f"hung for {PATIENCE:.0f} s")


class Course:
    """One verb: its source, what it makes of it undisturbed, and how long that takes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.verb = name, VERBS[name]
        self.folder = folder / name.replace(" ", "-")
        self.folder.mkdir()
        self.source, self.log = self.folder / "src", self.folder / "log"
        self.verb.source(self.source)
        self.whole = contents(self.source)
        begin = time.monotonic()
        wanted = self.out("wanted")
        self.ensure(ended(start(self.words(wanted), self.log)) == GOOD, "undisturbed")
        self.takes = time.monotonic() - begin
        self.wanted = contents(wanted)
        assert self.wanted, name

    def out(self, name: str) -> Path:
        """Return a folder to write to, which some verbs want to be there."""
        path = self.folder / name
        if "{out}/" in self.verb.words:
            path.mkdir()
        return path

    def words(self, out: Path, *, again: bool = False) -> list[str]:
        """Return the command."""
        words = f"{self.verb.words} {self.verb.again if again else ''}".split()
        return [word.format(src=self.source, out=out) for word in words]

    def ensure(self, good: bool, what: str) -> None:
        """Raise what is wrong, with the words of the command."""
        if not good:
            raise AssertionError(f"{self.name}: {what}: {self.log.read_text(errors='replace')[-800:]}")

    def trial(self, rng: random.Random) -> str:
        """Disturb one run, and do it again; "killed", "terminated" or "late"."""
        out = self.out("out")
        how = "late"
        for attempt in range(rng.choice((1, 1, 1, 2))):
            by = rng.choice((signal.SIGKILL, signal.SIGTERM))
            child = start(self.words(out, again=attempt > 0 or how != "late"), self.log)
            time.sleep(rng.random() * self.takes * 1.05)
            os.kill(child, by)
            code = ended(child)
            if by == signal.SIGTERM and code not in (GOOD, -signal.SIGTERM):
                self.ensure(code == TERMINATED, f"exit code {code} after SIGTERM")
                self.ensure(not self.strays(out, temporary=True), f"half files: {self.strays(out)}")
            if code != GOOD:
                how = "killed" if by == signal.SIGKILL else "terminated"
        code = ended(start(self.words(out, again=how != "late" or self.verb.again == "--resume"), self.log))
        if how == "late" and self.verb.again == "--overwrite":
            code = GOOD
        self.ensure(code == GOOD, f"exit code {code} of the same command again")
        found = contents(out)
        unlike = sorted(name for name in {*found, *self.wanted} if found.get(name) != self.wanted.get(name))
        self.ensure(not unlike, f"other files: {unlike[:5]}")
        self.ensure(contents(self.source) == self.whole, "the source has changed")
        shutil.rmtree(out)
        return how

    def strays(self, out: Path, *, temporary: bool = False) -> list[str]:
        """Hidden files below a folder, or temporary ones only."""
        names = [path.name for path in out.rglob(".*")] if out.is_dir() else []
        return [name for name in names if not temporary or is_temporary(name)]


def kill(names: list[str], seconds: float, seed: int) -> tuple[Counter[str], list[str]]:
    """Disturb runs for some seconds, each verb in turn; counts, and what was bad."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    for module in LOADED:
        importlib.import_module(module)
    folder = Path(tempfile.mkdtemp(prefix="dsv3-kill-"))
    try:
        courses = [Course(name, folder) for name in names]
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until or number < len(courses):
            course = courses[number % len(courses)]
            try:
                counts[course.trial(random.Random(f"{seed}/{number}"))] += 1
            except AssertionError as error:
                bad.append(f"{number}: {error}")
                print(bad[-1], file=sys.stderr)
                shutil.rmtree(course.folder / "out", ignore_errors=True)
            number += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts, bad


def main() -> int:
    """Command line; one line says what came of it, exit code 1 if anything was bad."""
    parser = record.parser(__doc__)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS), metavar="VERB")
    options = parser.parse_args()
    begin = time.monotonic()
    counts, bad = kill(options.verbs, options.seconds, options.seed)
    did = f"{sum(counts.values()) + len(bad)} runs of {len(options.verbs)} commands, seed {options.seed}"
    return record.outcome("make kill", did, counts, len(bad), begin, into_record=options.write)


if __name__ == "__main__":
    sys.exit(main())
