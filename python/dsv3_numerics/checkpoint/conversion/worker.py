"""Tasks of a conversion: one file each, written wherever the source and the destination are seen.

Lives here: `Conversion`, the arguments from which any process opens a `ShardWriter`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..._atomic import FULL
from ...tasks.task import Finished, Moved, Task
from .. import reader
from ..chunks import Stats
from ..reader import Checkpoint
from .pipeline import Pipeline
from .plan import Shard, make_plan


@dataclass(frozen=True)
class Conversion:
    """Arguments of a conversion; see `convert`."""

    src: str
    dst: str
    to: str
    dialect: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    verify: bool = False
    missing_scale: float | None = None

    @contextmanager
    def open(self) -> Iterator[ShardWriter]:
        """Open what writes its files, on one thread."""
        with reader.open(self.src, missing_scale=self.missing_scale) as ckpt:
            plan = make_plan(ckpt, self.to, self.include, self.exclude, self.dialect)
            yield ShardWriter(ckpt, plan.shards, Path(self.dst), 1, self.verify, alone=True)


class ShardWriter:
    """Writer of a conversion's files.

    Parameters
    ----------
    ckpt : Checkpoint
    shards : sequence of Shard
        All of the plan.
    folder : Path
    jobs : int
    verify : bool
    alone : bool
        See `Pipeline`.

    Attributes
    ----------
    on_disk : callable
        See `Pipeline`.
    """

    on_disk: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        ckpt: Checkpoint,
        shards: Sequence[Shard],
        folder: Path,
        jobs: int,
        verify: bool,
        *,
        alone: bool = False,
    ) -> None:
        self._ckpt, self.shards, self._folder = ckpt, list(shards), folder
        self._jobs, self._verify, self._alone = jobs, verify, alone
        self.tasks = [
            Task(number, shard.file, shard.bytes_read + shard.layout.size)
            for number, shard in enumerate(self.shards)
        ]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Write the files of some tasks; facts are sizes, blocks rounded again, and errors by tensor."""
        by_file = {self.shards[task.number].file: task for task in tasks}

        def whole(shard: Shard, stats: Stats) -> None:
            totals = {name: list(sums) for name, sums in stats.totals().items()}
            facts = {"size": shard.layout.size, "requantized": stats.requantized, "errors": totals}
            finished(by_file[shard.file], facts)

        pipeline = Pipeline(
            self._ckpt,
            self._folder,
            self._jobs,
            self._verify,
            moved,
            whole,
            alone=self._alone,
            on_disk=self.on_disk,
        )
        try:
            pipeline.run([self.shards[task.number] for task in tasks])
        except OSError as error:
            if error.errno not in FULL:
                raise
            why = os.strerror(error.errno)
            text = f"{why}: files that are whole stay; make space, and resume"
            raise OSError(error.errno, text, str(self._folder)) from error
