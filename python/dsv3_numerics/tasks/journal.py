"""The journal of a run: results of the tasks that are done, so that a killed run can be taken up.

Lives here: `Journal`, a file of JSON lines beside the results. Its first line says what the run is of; each
later one holds a task that is done, and what it found; all have a checksum. It is locked while its process
lives. Parts of a run write one each, and all are read together; they are removed when the results are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .._atomic import naming, replacing
from .plan import Part
from .task import Facts, Task

if sys.platform != "win32":
    import fcntl

_SUM = "crc32"
_NAME = re.compile(r"\.dsv3-numerics-([a-z]+)(?:\.(\d+)-of-(\d+))?\.jsonl")


def journal_name(verb: str, part: Part | None = None) -> str:
    """Return the name of a journal.

    Examples
    --------
    >>> journal_name("convert"), journal_name("study", Part(2, 8))
    ('.dsv3-numerics-convert.jsonl', '.dsv3-numerics-study.2-of-8.jsonl')
    """
    return f".dsv3-numerics-{verb}{f'.{part.index}-of-{part.count}' if part else ''}.jsonl"


def verb_of(name: str) -> str | None:
    """Return the verb whose journal has this name; None for other files."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def journals(folder: Path, verb: str | None = None) -> list[Path]:
    """List the journals in a folder, of one verb if given."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found = ((name, verb_of(name)) for name in names)
    return [folder / name for name, of in found if of is not None and verb in (None, of)]


class Journal:
    """An open journal; see `open_journal`.

    Attributes
    ----------
    done : dict of str to dict
        Facts of each task that is done, by its name, those of other parts too.
    """

    def __init__(self, stream: IO[bytes], done: dict[str, Facts], every: float = 0.0) -> None:
        self._stream, self._every, self._synced = stream, every, 0.0
        self.done = done

    def note(self, task: Task, facts: Facts) -> None:
        """Remember that a task is done, for good."""
        self._stream.write(_line({"task": task.name, "facts": facts}))
        self._stream.flush()
        if time.monotonic() - self._synced >= self._every:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()
        self.done[task.name] = facts


@contextlib.contextmanager
def open_journal(
    folder: Path,
    verb: str,
    head: Mapping[str, Any],
    *,
    resume: bool,
    part: Part | None = None,
    arguments: Mapping[str, Any] | None = None,
    every: float = 0.0,
) -> Iterator[Journal]:
    """Begin a journal, or take one up.

    Parameters
    ----------
    folder : Path
        Of the results.
    verb : str
    head : mapping
        What the run is of; must be the same when it is taken up, and in all parts.
    resume : bool
        Whether one may be there.
    part : Part, optional
        The journal of one part. Without it, no part may be at work.
    arguments : mapping, optional
        What `merge` has to know besides.
    every : float
        Seconds between two waits for the disk; 0: after each task.

    Raises
    ------
    ValueError
        One that was begun with other options or another source, that cannot be read, or that another process
        is at work with.
    """
    path = folder / journal_name(verb, part)
    done: dict[str, Facts] = {}
    with naming(path), contextlib.ExitStack() as others:
        for other in journals(folder, verb):
            if other != path:
                lines = others.enter_context(open(other, "rb"))
                if part is None:
                    _lock(lines, other, shared=True)  # and keep parts from beginning, till the end
                done |= _tasks(_parsed(lines, other)[0], other, head)
        if not (resume and path.exists()):
            with replacing(path) as file:
                file.write(0, _line({"head": head, "arguments": dict(arguments or {})}))
        stream = others.enter_context(open(path, "r+b"))
        _lock(stream, path)
        done |= _own(stream, path, head)
        yield Journal(stream, done, every)


def remove_journals(folder: Path, verb: str) -> None:
    """Forget them: the results are there."""
    for path in journals(folder, verb):
        path.unlink(missing_ok=True)


def read_head(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a run is of, and its other arguments.

    Raises
    ------
    ValueError
        No journal.
    """
    with open(path, "rb") as stream:
        first = _parsed(stream, path)[0][0]
    return first["head"], first["arguments"]


def _lock(stream: IO[bytes], path: Path, *, shared: bool = False) -> None:
    if sys.platform == "win32":  # which has no such locks
        return
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path.parent}: another process is at work in it ({path.name})") from None
    except OSError:
        return  # a file system without locks


def _parsed(stream: IO[bytes], path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Return the lines that are whole, and the rest: a last line that was cut short."""
    *whole, rest = stream.read().split(b"\n")
    try:
        entries = [_entry(line) for line in whole]
        good = entries and isinstance(entries[0]["head"], dict) and isinstance(entries[0]["arguments"], dict)
        good = good and all(isinstance(entry["facts"], dict) for entry in entries[1:])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{path}: not a journal of ours, or changed since it was written")
    return entries, rest


def _own(stream: IO[bytes], path: Path, head: Mapping[str, Any]) -> dict[str, Facts]:
    entries, rest = _parsed(stream, path)
    done = _tasks(entries, path, head)
    if rest:
        stream.seek(-len(rest), os.SEEK_END)
        stream.truncate()
    return done


def _tasks(entries: list[dict[str, Any]], path: Path, head: Mapping[str, Any]) -> dict[str, Facts]:
    begun = entries[0]["head"]
    for key, value in json.loads(_text(head)).items():
        if begun.get(key) != value:
            other = f"{_short(begun.get(key))}, not {_short(value)}"
            raise ValueError(f"{path}: found a run begun with another {key}: {other}")
    return {str(entry["task"]): entry["facts"] for entry in entries[1:]}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _line(content: Mapping[str, Any]) -> bytes:
    """Write a line: JSON, the checksum of the rest last."""
    text = _text(content)
    return f'{text[:-1]}, "{_SUM}": {zlib.crc32(text.encode())}}}\n'.encode()


def _entry(line: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(line)
    if entry.pop(_SUM) != zlib.crc32(_text(entry).encode()):
        raise ValueError
    return entry


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
