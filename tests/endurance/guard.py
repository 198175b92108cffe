"""Arrays between pages that nobody may touch: no function of the core reads or writes outside of them.

    python tests/endurance/guard.py --seconds 600

Lives here: the loop. Every array of a call lies at the end or at the start of readable pages (`pages`), with
a page on each side that ends the process when it is touched; what is only read lies in pages that cannot be
written. Bytes beside an array keep their pattern, and results are those of the same call on ordinary arrays.
Calls, of all lengths, formats and options, are in `guard_calls`; each is made at every SIMD level.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import record
from pages import Array, Out, Pages

from dsv3_numerics import _core

BEFORE = b"\xff" * 8  # the number of a call, before the first
PATIENCE = 120  # seconds of one call


def placed(value: Any, place: Callable[[Array, bool], Array], outs: list[Array]) -> Any:
    """Arguments whose arrays `place` has replaced; those that are written are noted."""
    if isinstance(value, Out):
        outs.append(place(value.array, True))
        return outs[-1]
    if isinstance(value, np.ndarray):
        return place(value, False)
    if isinstance(value, tuple | list):
        return type(value)(placed(one, place, outs) for one in value)
    if isinstance(value, dict):
        return {key: placed(one, place, outs) for key, one in value.items()}
    return value


def call(function: Callable[..., Any], arguments: Any, place: Callable[[Array, bool], Array]) -> Any:
    """Make a call; bytes of what it wrote, or the name of what it refused."""
    outs: list[Array] = []
    arguments = placed(arguments, place, outs)
    try:
        found = function(*arguments)
    except (ValueError, TypeError, OverflowError) as error:
        return type(error).__name__
    told = repr(found) if isinstance(found, int | float | dict | tuple) else ""
    return told, [out.tobytes() for out in outs]


def work(first: int, seed: int, until: float, note: Path, level: str) -> None:
    """Make calls from number `first` on; note which, and print what came of them."""
    from guard_calls import CALLS, Draw

    faulthandler.enable()
    _core.set_simd_level(level)
    pages, names, count = Pages(), list(CALLS), first
    found: Counter[str] = Counter()
    with open(note, "r+b") as file, mmap.mmap(file.fileno(), 8) as at:
        while time.time() < until or count < first + len(names):
            name = names[count % len(names)]
            at[:] = count.to_bytes(8, "little")
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            rng = random.Random(f"{seed}/{name}/{count}")
            _core.set_num_threads(rng.choice((1, 1, 2)))
            function, arguments = CALLS[name](Draw(rng, count // len(names)))
            plain = call(function, arguments, lambda array, _: array.copy())
            held = call(
                function,
                arguments,
                lambda array, out, rng=rng: pages.hold(array, rng, writable=out),  # type: ignore[misc]
            )
            if not pages.release():
                print(
                    json.dumps({"call": name, "number": count, "found": "bytes beside an array"}), flush=True
                )
            if plain != held:
                print(json.dumps({"call": name, "number": count, "found": "other results"}), flush=True)
            found["refused" if isinstance(plain, str) else "answered"] += 1
            found[f"{name} {'refused' if isinstance(plain, str) else 'answered'}"] += 1
            count += 1
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"end": count, **found}), flush=True)


def guard(seconds: float, seed: int, levels: list[str]) -> tuple[Counter[str], list[str]]:
    """Make calls at each level for some seconds; counts, and what was bad."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for level in levels:
            note, first, until = Path(place) / level, 0, time.time() + seconds / len(levels)
            while first >= 0:
                note.write_bytes(BEFORE)
                command = [sys.executable, __file__, "--work", str(first), "--seed", str(seed)]
                command += ["--until", str(until), "--note", str(note), "--levels", level]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                first, start = -2, first
                for line in done.stdout.splitlines():
                    entry = json.loads(line)
                    if "end" in entry:
                        first = -1
                        counts.update(answered=entry.get("answered", 0), refused=entry.get("refused", 0))
                    else:
                        bad.append(f"{level}: {entry['call']}:{entry['number']}: {entry['found']}")
                if first == -2 and note.read_bytes() == BEFORE:
                    raise RuntimeError(f"no call was made: {done.stderr[-2000:]}")
                if first == -2:
                    number = int.from_bytes(note.read_bytes(), "little")
                    counts.update(answered=number - start)
                    bad.append(f"{level}: {number}: ended with {done.returncode}: {done.stderr[-2000:]}")
                    first = number + 1 if time.time() < until else -1
    return counts, bad


def main() -> int:
    """Command line; one line says what came of it, exit code 1 if anything was bad."""
    parser = record.parser(__doc__, works=True)
    parser.add_argument("--levels", nargs="+", default=list(_core.simd_levels()), help="all by default")
    options = parser.parse_args()
    if options.work is not None:
        work(options.work, options.seed, options.until, options.note, options.levels[0])
        return 0
    start = time.monotonic()
    counts, bad = guard(options.seconds, options.seed, options.levels)
    did = f"{sum(counts.values()):,} calls at {len(options.levels)} levels, seed {options.seed}"
    for line in bad[:20]:
        print(line, file=sys.stderr)
    return record.outcome("make guard", did, counts, len(bad), start, into_record=options.write)


if __name__ == "__main__":
    sys.exit(main())
