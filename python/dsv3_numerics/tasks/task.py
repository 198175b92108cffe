"""Pieces of a work, and who can do them.

Lives here: `Task`, what is told of it, and the protocols of who does tasks. By whom they are done is
`plan`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

Facts = dict[str, Any]
"""Result of a task as JSON holds it; what is large is in files that the task has written."""


class Task(NamedTuple):
    """One piece of a work.

    Attributes
    ----------
    number : int
        Its place in the plan.
    name : str
        Unique in the plan.
    cost : float
        In the unit of the work's progress (bytes, elements, layers).
    """

    number: int
    name: str
    cost: float


Moved = Callable[[str, float], None]
"""Called with an item's name and the cost that was just done of it."""

Finished = Callable[[Task, Facts], None]
"""Called with each task that is done, by one thread at a time."""


class Worker(Protocol):
    """Whoever can do the tasks of a plan; it holds open what they need."""

    @property
    def tasks(self) -> Sequence[Task]:
        """The whole plan, the same wherever it is made."""

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Do some of the tasks, in any order."""


@runtime_checkable
class FileWorker(Protocol):
    """A worker whose tasks end with waiting for the disk."""

    on_disk: Callable[[], None]
    """Called by the thread of a task when nothing else is left of it."""


class Opener(Protocol):
    """Arguments of a work, from which any process can open a worker; hashable, and can be pickled."""

    def open(self) -> AbstractContextManager[Worker]:
        """Open a worker."""


def digest(tasks: Sequence[Task]) -> str:
    """Digest of a plan: workers that list other tasks see another source."""
    text = "\n".join(f"{task.number} {task.name} {task.cost!r}" for task in tasks)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
