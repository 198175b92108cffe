"""The journal of a conversion: which files of a destination are whole, so that a killed run can be taken up.

Lives here: `Journal`, a file of JSON lines in the destination. The first line says what is converted and
how; each later one names a file that is whole. It is locked while its process lives, and removed when all is
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..._atomic import replacing
from ..readers import CheckpointError

if sys.platform != "win32":
    import fcntl

JOURNAL_NAME = ".dsv3-numerics-convert.jsonl"


class Journal:
    """An open journal; see `open_journal`.

    Attributes
    ----------
    done : dict of str to int
        Bytes of each file that is whole.
    """

    def __init__(self, stream: IO[bytes], done: dict[str, int]) -> None:
        self._stream = stream
        self.done = done

    def note(self, file: str, size: int) -> None:
        """Remember that a file is whole, for good."""
        self._stream.write(_line({"file": file, "size": size}))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.done[file] = size


@contextlib.contextmanager
def open_journal(folder: Path, head: Mapping[str, Any], *, resume: bool) -> Iterator[Journal]:
    """Begin a journal, or take one up.

    Parameters
    ----------
    folder : Path
        The destination.
    head : mapping
        What is converted and how; must be the same when it is taken up.
    resume : bool
        Whether one may be there.

    Raises
    ------
    ValueError
        One that was begun with other options or another source.
    CheckpointError
        One that cannot be read, or that another process is at work with.
    """
    path = folder / JOURNAL_NAME
    if not (resume and path.exists()):
        with replacing(path) as file:
            file.write(0, _line({"head": head}))
    with open(path, "r+b") as stream:
        _lock(stream, path)
        done = _read(stream, path, head)
        yield Journal(stream, done)


def _lock(stream: IO[bytes], path: Path) -> None:
    if sys.platform == "win32":  # which has no such locks
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(f"{path.parent}: another process is converting into it") from None


def _read(stream: IO[bytes], path: Path, head: Mapping[str, Any]) -> dict[str, int]:
    """Return the files that are whole; a last line that was chunk short is dropped."""
    lines = stream.read().split(b"\n")
    whole, chunk = lines[:-1], lines[-1]
    try:
        found, *entries = (json.loads(line) for line in whole)
        done = {str(entry["file"]): int(entry["size"]) for entry in entries}
        begun = dict(found["head"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a journal of a conversion") from error
    for key, value in json.loads(_line(head)).items():
        if begun.get(key) != value:
            other = f"{_short(begun.get(key))}, not {_short(value)}"
            raise ValueError(f"resume: found a conversion begun with another {key}: {other}")
    if chunk:
        stream.seek(-len(chunk), os.SEEK_END)
        stream.truncate()
    return done


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"
