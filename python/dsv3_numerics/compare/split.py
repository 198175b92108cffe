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
from .arrays import ArrayComparison
from .files import Comparison, Matched
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
        As for `Matched`.
    """

    def __init__(self, of: ComparisonOf, left: Tensors, right: Tensors) -> None:
        self._matched = Matched(of.a, of.b, left, right)
        self.empty, pairs = self._matched.empty, self._matched.pairs
        sizes = [float(_nbytes(left, a) + _nbytes(right, b)) for a, b in pairs]
        self._groups = grouped(sizes, min(sum(sizes) / _SHARE, _MOST))
        self.tasks = [
            Task(number, pairs[first][0], sum(sizes[first:last]))
            for number, (first, last) in enumerate(self._groups)
        ]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Compare the tensors of some tasks."""
        for task in tasks:
            pairs = self._matched.pairs[slice(*self._groups[task.number])]
            found = map(self._matched.compared, pairs)
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
            split.within(of, folder).perform(worker, todo, meter.advance, journal.note)
            return None if split.part is not None else worker.assembled(journal.done)
