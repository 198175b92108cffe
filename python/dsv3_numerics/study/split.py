"""A study of files, split: arguments from which any process opens the same worker.

Lives here: `StudyOfFiles`, with or without an original beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .against import pair_worker, prepare_against
from .saved import Study
from .slabs import SLAB_ELEMENTS
from .state import StudyWorker
from .sweep import Selection, prepare, sweep, tensor_worker


@dataclass(frozen=True)
class StudyOfFiles:
    """Arguments of a study; see `study.run` and `study.run_against`. Paths are absolute."""

    inputs: tuple[str, ...]
    schemes: tuple[str, ...] = ()
    against: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    missing_scale: float | None = None
    slab_elements: int = SLAB_ELEMENTS

    def prepare(self) -> tuple[Study, list[Any]]:
        """Make an empty study, and what it is to be of; raises as `study.run` does."""
        selection = Selection(self.include, self.exclude, self.missing_scale)
        if self.against is None:
            return prepare(self.inputs, self.schemes, **selection._asdict())
        return prepare_against(self.inputs[0], self.against, selection)

    def execute(self, study: Study, items: list[Any], **how: Any) -> None:
        """Do the study, or the part of it that is asked for; see `sweep.sweep`."""
        sweep(study, self._worker(study, items), **how)

    def _worker(self, study: Study, items: list[Any]) -> StudyWorker[Any]:
        make: Any = tensor_worker if self.against is None else pair_worker
        worker: StudyWorker[Any] = make(study, items, self.slab_elements)
        return worker

    @contextmanager
    def open(self) -> Iterator[StudyWorker[Any]]:
        """Open what studies its tensors."""
        yield self._worker(*self.prepare())
