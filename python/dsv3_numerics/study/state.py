"""Tasks of a study: groups of tensors, and what was found of each as JSON holds it.

Lives here: `StudyWorker`, whose plan is the same wherever it is made, the facts of a task, and `assemble`,
which puts facts together in the order of the plan: figures do not depend on who did what, or when.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..checkpoint import Skipped
from ..schemes import Scheme
from ..tasks.journal import Journal
from ..tasks.plan import grouped
from ..tasks.task import Facts, Finished, Moved, Task
from .metrics import FIELDS
from .result import StudyData, TensorResult

VERB = "study"
SYNC_SECONDS = 1.0
"""Seconds between two waits for the disk: a small tensor takes less than such a wait."""

_SHARE = 1000  # a task is this part of all elements, about
_MOST = 1 << 27  # but no more elements than this, unless one tensor has them
_FACTS = ("name", "shape", "dtype", "origin", "kind")

Item = TypeVar("Item")
Measure = Callable[[StudyData, Item, Moved], None]
"""Studies an item and puts it into a study."""


class StudyWorker(Generic[Item]):
    """Worker of a study.

    Parameters
    ----------
    schemes : sequence of Scheme
    items : sequence
        What is studied: tensors, or pairs of them.
    sizes : sequence of (str, int)
        Name and elements of each.
    measure : callable
    """

    def __init__(
        self,
        schemes: Sequence[Scheme],
        items: Sequence[Item],
        sizes: Sequence[tuple[str, int]],
        measure: Measure[Item],
    ) -> None:
        self._schemes, self._items, self._measure = tuple(schemes), items, measure
        counts = [size for _, size in sizes]
        self._groups = grouped(counts, min(sum(counts) // _SHARE, _MOST))
        self.tasks = [
            Task(number, sizes[first][0], float(sum(counts[first:last])))
            for number, (first, last) in enumerate(self._groups)
        ]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Study the items of some tasks."""
        for task in tasks:
            start = time.perf_counter()
            piece = StudyData(self._schemes, histograms=np.zeros((len(self._schemes), 256, 3)))
            for item in self._items[slice(*self._groups[task.number])]:
                self._measure(piece, item, moved)
            finished(task, facts_of(piece, time.perf_counter() - start))


def facts_of(piece: StudyData, seconds: float) -> Facts:
    """Return what was found of the tensors of a task; arrays of float64 are in base64, to the bit."""
    used = np.flatnonzero(piece.histograms.any(axis=(0, 2)))
    return {
        "tensors": [
            {**{name: getattr(t, name) for name in _FACTS}, "sums": _text(t.sums)} for t in piece.tensors
        ],
        "skipped": [vars(entry) for entry in piece.skipped],
        "octaves": used.tolist(),
        "histograms": _text(piece.histograms[:, used]),
        "seconds": seconds,
        **({"floored": piece.settings["floored"]} if "floored" in piece.settings else {}),
    }


def assemble(study: StudyData, tasks: Iterable[Task], done: Mapping[str, Facts]) -> None:
    """Put the facts of the tasks that are done into a study, in the order of the plan.

    Raises
    ------
    ValueError
        Facts of other schemes, or none.
    """
    columns = len(study.schemes)
    for task in tasks:
        facts = done.get(task.name)
        if facts is None:
            continue
        try:
            found = [
                TensorResult(
                    t["name"],
                    tuple(t["shape"]),
                    t["dtype"],
                    t["origin"],
                    _array(t["sums"], (columns, len(FIELDS))),
                    t["kind"],
                )
                for t in facts["tensors"]
            ]
            skipped = [Skipped(**entry) for entry in facts["skipped"]]
            octaves = np.array(facts["octaves"], np.intp)
            floored = {str(name): (int(n), int(m)) for name, (n, m) in facts.get("floored", {}).items()}
            study.histograms[:, octaves] += _array(facts["histograms"], (columns, len(octaves), 3))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{task.name}: not the facts of a study ({error})") from error
        for name, counts in floored.items():
            total = study.settings.setdefault("floored", {}).get(name, (0, 0))
            study.settings["floored"][name] = [a + b for a, b in zip(total, counts, strict=True)]
        study.tensors += found
        study.skipped += skipped


def _text(array: npt.NDArray[np.float64]) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode()


def _array(text: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f8").astype(np.float64).reshape(shape)


def seconds_of(tasks: Iterable[Task], journal: Journal | None) -> float:
    """Return the time that finished tasks took."""
    done = {} if journal is None else journal.done
    return float(sum(done[task.name]["seconds"] for task in tasks if task.name in done))
