"""A comparison of large files, split: tasks of some tensors each, done by parts or by workers of Dask.

Lives here: `ComparisonOf`, arguments from which any process opens the same worker, and `compare_split`. One
process alone needs none of it: `files.compare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._progress import Meter, Progress
from ..checkpoint import Checkpoint
from ..tasks.journal import open_journal
from ..tasks.plan import Split, grouped
from ..tasks.task import Facts, Finished, Moved, Task, digest
from .arrays import ArrayComparison, compare_arrays
from .files import Comparison
from .names import match_names
from .npz_files import NpzFile
from .sources import Tensors, opened

VERB = "compare"
_SHARE, _MOST = 1000, 1 << 30
"""A task is a thousandth of all bytes, or a GiB if that is less; a tensor is never cut."""


@dataclass(frozen=True)
class ComparisonOf:
    """Arguments of a comparison; see `compare`. Paths are absolute."""

    a: str
    b: str

    @contextmanager
    def open(self) -> Iterator[PairComparer]:
        """Open both sides."""
        with opened(self.a, "a") as left, opened(self.b, "b") as right:
            yield PairComparer(self, left, right)


class PairComparer:
    """Worker that compares pairs of tensors.

    Parameters
    ----------
    of : ComparisonOf
    left, right : Tensors

    Attributes
    ----------
    tasks : list of Task
    empty : Comparison
        The result without tensors.

    Raises
    ------
    ValueError
        No name in common.
    """

    def __init__(self, of: ComparisonOf, left: Tensors, right: Tensors) -> None:
        self._left, self._right = left, right
        self._pairs, only_a, only_b = match_names(list(left), list(right))
        if not self._pairs:
            raise ValueError(f"a and b: found no name in common in {of.a} and {of.b}")
        notes = [f"{side}: {note}" for side, held in (("A", left), ("B", right)) for note in held.notes]
        self.empty = Comparison(of.a, of.b, only_a=only_a, only_b=only_b, notes=notes)
        sizes = [float(_nbytes(left, a) + _nbytes(right, b)) for a, b in self._pairs]
        self._groups = grouped(sizes, min(sum(sizes) / _SHARE, _MOST))
        self.tasks = [
            Task(number, self._pairs[first][0], sum(sizes[first:last]))
            for number, (first, last) in enumerate(self._groups)
        ]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Compare the tensors of some tasks."""
        for task in tasks:
            found = []
            for name, other in self._pairs[slice(*self._groups[task.number])]:
                shown = name if name == other else f"{name} = {other}"
                found.append(compare_arrays(self._left[name], self._right[other], name=shown))
            finished(task, {"tensors": [one.to_facts() for one in found]})
            moved(task.name, task.cost)

    def assembled(self, done: Mapping[str, Facts]) -> Comparison:
        """Return the whole result, in the order of the names."""
        rows = [row for task in self.tasks for row in done[task.name]["tensors"]]
        self.empty.tensors = [ArrayComparison.from_facts(row) for row in rows]
        return self.empty


def _nbytes(tensors: Tensors, name: str) -> int:
    """Bytes of a tensor, without reading it."""
    held = tensors.held
    if isinstance(held, Checkpoint):
        return held.info(name).nbytes
    return held.nbytes(name) if isinstance(held, NpzFile) else tensors[name].nbytes


def compare_split(
    of: ComparisonOf, folder: Path, split: Split, *, arguments: Mapping[str, Any], progress: Progress | None
) -> Comparison | None:
    """Compare by parts, or by workers of Dask; what is done is kept in a journal in the folder.

    Parameters
    ----------
    of : ComparisonOf
    folder : Path
        That all machines see.
    split : Split
    arguments : mapping
        What `merge` has to know besides.
    progress : callable or None

    Returns
    -------
    Comparison or None
        None where only a part is done.

    Raises
    ------
    OSError, ValueError
        As `compare` does; a journal of another comparison; parts that are missing.
    """
    with of.open() as worker:
        head = {"a": of.a, "b": of.b, "plan": digest(worker.tasks)}
        with open_journal(
            folder, VERB, head, resume=True, part=split.part, arguments=dict(arguments)
        ) as journal:
            todo = [task for task in split.tasks(worker.tasks) if task.name not in journal.done]
            meter = Meter(progress, sum(task.cost for task in todo))
            split.perform(worker, of, todo, folder, meter.advance, journal.note)
            return None if split.part is not None else worker.assembled(journal.done)
