"""One plan for one process, for parts of it, and for workers elsewhere.

Lives here: `Part` and `Split`, by whom tasks are done. A worker lists the
same tasks in the same order wherever it is opened, and what a task makes depends on nothing else; so results
are put together by the numbers of their tasks, and are the same to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .task import Finished, Moved, Opener, Task, Worker, digest

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Part:
    """The `index`-th of `count` parts of a plan, from 1.

    Examples
    --------
    >>> from dsv3_numerics.tasks.plan import Part
    >>> from dsv3_numerics.tasks.task import Task
    >>> part = Part.parse("2/3")
    >>> [task.name for task in part.of([Task(i, name, 1) for i, name in enumerate("abcde")])]
    ['b', 'e']
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``I/N``.

        Raises
        ------
        ValueError
            Anything else, or a number out of range.
        """
        match = _PART.fullmatch(text.strip())
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count:
            raise ValueError(f"part: found {text[:40]!r}, expected I/N with I from 1 to N, as 2/8")
        return cls(index, count)

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        """Return its tasks: every `count`-th, so that parts are about as large as each other."""
        return [task for task in tasks if task.number % self.count == self.index - 1]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Split:
    """By whom the tasks of a plan are done.

    Attributes
    ----------
    part : Part or None
        Only the tasks of one part, by this process.
    dask : str or None
        Workers of Dask: the address of a scheduler, a scheduler's file, or ``local:N``.
    merge : bool
        By nobody: all are done, and what follows them is left.
    opener : Opener or None
        Arguments from which workers elsewhere open the same worker.
    folder : Path or None
        Where all machines write.
    """

    part: Part | None = None
    dask: str | None = None
    merge: bool = False
    opener: Opener | None = None
    folder: Path | None = None

    @classmethod
    def of(cls, part: str | None, dask: str | None) -> Split:
        """Make one of arguments as users give them.

        Raises
        ------
        ValueError
            Both are given, or one is not understood.
        """
        if part is not None and dask is not None:
            raise ValueError("part: found dask too, expected one of them: Dask splits the work itself")
        if dask is not None:
            from .cluster import ensure_address

            ensure_address(dask)
        return cls(None if part is None else Part.parse(part), dask)

    @property
    def alone(self) -> bool:
        """True where one process does everything."""
        return self.part is None and self.dask is None and not self.merge

    def tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Return those of a plan that this run is to do."""
        return self.part.of(tasks) if self.part is not None else list(tasks)

    def within(self, opener: Opener | None, folder: Path | None) -> Split:
        """Return the same, with what workers elsewhere need."""
        return replace(self, opener=opener, folder=folder)

    def perform(self, worker: Worker, todo: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Do tasks.

        Parameters
        ----------
        worker : Worker
            Of this process.
        todo : sequence of Task
        moved, finished : callable

        Raises
        ------
        ValueError
            Tasks that are not done, where all should be.
        """
        if self.merge and todo:
            names = ", ".join(task.name for task in todo[:3]) + (", ..." if len(todo) > 3 else "")
            raise ValueError(
                f"merge: {len(todo)} of {len(worker.tasks)} tasks are not done ({names}); run their parts "
                "again, or the command without --part (with --resume, where it has one), which does the rest"
            )
        if not todo:
            return
        if self.dask is None:
            worker.run(todo, moved, finished)
            return
        if self.opener is None or self.folder is None:
            raise ValueError("dask: found arrays in memory, expected files that all workers can read")
        from .cluster import run

        run(self.dask, self.opener, digest(worker.tasks), todo, self.folder, moved, finished)


HERE = Split()
"""Everything in this process."""


def grouped(costs: Sequence[float], most: float) -> list[tuple[int, int]]:
    """Put consecutive items together until they cost about `most`: first item and the one after the last.

    Examples
    --------
    >>> grouped([1, 1, 5, 1, 1], 2)
    [(0, 2), (2, 3), (3, 5)]
    """
    found: list[tuple[int, int]] = []
    first, cost = 0, 0.0
    for i, more in enumerate(costs):
        if i > first and cost + more > most:
            found.append((first, i))
            first, cost = i, 0.0
        cost += more
    return [*found, (first, len(costs))] if costs else []
