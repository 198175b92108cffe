"""The run of an analysis, part by part; each is kept as soon as it is done, for a second run to continue."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import as_array, brief, positive
from .._progress import Meter, Progress
from ..model import Config, Model, Recipe, random_weights
from ..report.files import json_ready
from ..report.running import recorded
from ..tasks.plan import HERE, Split
from ..tasks.task import Facts, Finished, Moved, Task
from .forward import Subject
from .identity import about
from .measuring import MEASURES
from .parts import Kept
from .saved import Sensitivity
from .variant import OPERATORS, PARTS, Variant, variants

TOKENS = 64
MOST_PERTURBATIONS = 10_000


class PartJob(NamedTuple):
    """One part of one variant; `cost` counts layers."""

    variant: Variant
    part: str
    cost: float

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.part}: {self.variant.name}"


class Prepared(NamedTuple):
    """A sensitivity analysis that may have begun: all its jobs, and those left to do."""

    result: Sensitivity
    jobs: list[PartJob]
    subject: Subject
    kept: Kept | None
    every: list[PartJob]


def random_model() -> Model:
    """Return a small random model, to see a sensitivity analysis at once.

    Examples
    --------
    >>> from dsv3_numerics.sensitivity import random_model
    >>> random_model().config.num_hidden_layers
    3
    """
    config = Config.preset("tiny")
    return Model(config, random_weights(config))


def random_ids(model: Model, tokens: int = TOKENS, seed: int = 0) -> npt.NDArray[np.int64]:
    """Token ids drawn evenly from the vocabulary."""
    rng = np.random.default_rng(seed)
    return rng.integers(model.config.vocab_size, size=positive(tokens, "tokens"))


def prepare(
    model: Model,
    ids: npt.ArrayLike,
    recipe: str | Recipe = "deepseek_v3",
    *,
    only: Iterable[str] = (),
    absorbed: bool = False,
    perturbations: int = 6,
    folder: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> Prepared:
    """Prepare a run, after looking at what a folder holds; see `run` for the arguments."""
    chosen = Recipe.preset(recipe) if isinstance(recipe, str) else recipe
    array = as_array(ids, "ids")
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or not array.size:
        raise ValueError(
            f"ids: found {array.dtype} {array.shape}, expected integers, (tokens,) or (batch, tokens), at "
            "least one"
        )
    array = np.atleast_2d(array).astype(np.int64)
    if not 0 <= perturbations <= MOST_PERTURBATIONS:
        given, most = brief(perturbations), MOST_PERTURBATIONS
        raise ValueError(f"perturbations: found {given}, expected 0 to {most}")
    if array.min() < 0 or array.max() >= model.config.vocab_size:
        raise ValueError(
            f"ids: found {array.min()} to {array.max()}, expected 0 to {model.config.vocab_size - 1}"
        )
    found = variants(chosen, only, absorbed=absorbed, perturbations=perturbations)
    for each in dict.fromkeys(variant.recipe for variant in found):
        model.embed(array[:, :1], recipe=each)  # refuses what the checkpoint does not allow, before any work
    settings = about(model, array, chosen, absorbed)
    kept = None if folder is None else Kept(Path(folder), settings, restart=restart)
    result = Sensitivity(chosen, found, settings=settings)
    jobs: list[PartJob] = []
    every: list[PartJob] = []
    # whole forwards first: they say most
    for part in reversed(PARTS):
        for variant in found:
            if part not in variant.parts:
                continue
            done = kept.load(variant, part) if kept is not None else None
            every.append(PartJob(variant, part, _cost(model, part, variant)))
            if done is not None:
                result.parts[part, variant.name] = done
            else:
                jobs.append(every[-1])
    return Prepared(result, jobs, Subject(model, array, chosen, absorbed), kept, every)


def _cost(model: Model, part: str, variant: Variant) -> float:
    """In layers: an operation is done twice, and so is a forward that is perturbed in float64 too."""
    return len(model.layers) * (2.0 if part == OPERATORS or variant.perturbation else 1.0)


def execute(
    prepared: Prepared, *, threads: int | None = None, progress: Progress | None = None, split: Split = HERE
) -> None:
    """Do what is left; if interrupted, the result (and the folder) hold the parts that were finished.

    Parameters
    ----------
    prepared : Prepared
    threads : int, optional
        Threads for this run; the figures do not depend on it.
    progress : callable, optional
    split : Split
        By whom it is done.
    """
    result, jobs, _, kept, _ = prepared
    worker = PartWorker(prepared)
    left = {job.label for job in jobs}
    todo = [task for task in split.tasks(worker.tasks) if task.name in left]
    meter = Meter(progress, sum(task.cost for task in todo))

    def finished(task: Task, facts: Facts) -> None:
        job = worker.job(task)
        if kept is not None:
            kept.save(job.variant, job.part, facts)
        result.parts[job.part, job.variant.name] = facts

    with recorded(result, threads):
        split.perform(worker, todo, meter.advance, finished)


class PartWorker:
    """Worker of a sensitivity analysis: a task is one part of one variant."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self.tasks = [Task(i, job.label, job.cost) for i, job in enumerate(prepared.every)]

    def job(self, task: Task) -> PartJob:
        """Return what a task is."""
        return self._prepared.every[task.number]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Measure some parts."""
        subject = self._prepared.subject
        moved("reference: float64", 0.0)
        subject.reference()
        for task in tasks:
            job, left = self.job(task), task.cost
            moved(job.label, 0.0)

            def step(label: str = job.label) -> None:
                nonlocal left
                moved(label, min(1.0, left))
                left -= min(1.0, left)

            found = MEASURES[job.part](subject, job.variant, step)
            content = json.loads(json.dumps(json_ready(found), sort_keys=True))  # as it is read back
            finished(task, content)
            moved(job.label, left)


@dataclass(frozen=True)
class SensitivityOf:
    """Arguments of an analysis of a checkpoint, from which any process opens a worker; see `run`."""

    model: str
    ids: tuple[tuple[int, ...], ...]
    recipe: str
    only: tuple[str, ...]
    absorbed: bool
    perturbations: int

    def prepare(self, folder: Path | None = None) -> Prepared:
        """Prepare the analysis; raises as `run` does."""
        return prepare(
            Model.from_checkpoint(self.model),
            np.array(self.ids, np.int64),
            Recipe.from_json(self.recipe),
            only=self.only,
            absorbed=self.absorbed,
            perturbations=self.perturbations,
            folder=folder,
        )

    @contextmanager
    def open(self) -> Iterator[PartWorker]:
        """Open what measures its parts."""
        yield PartWorker(self.prepare())


def run(
    model: Model | str | os.PathLike[str],
    ids: npt.ArrayLike | None = None,
    recipe: str | Recipe = "deepseek_v3",
    *,
    only: Iterable[str] = (),
    absorbed: bool = False,
    perturbations: int = 6,
    folder: str | os.PathLike[str] | None = None,
    restart: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Find out which choice of a recipe costs how much, and where.

    Parameters
    ----------
    model : Model, or path of a checkpoint folder
    ids : array_like of int, shape (tokens,) or (batch, tokens), optional
        What goes through the model: text that it was trained for, if the figures are to mean something. By
        default 64 random ids.
    recipe : Recipe or str
        Or a preset's name.
    only : iterable of str
        Choices to look at; all that the recipe makes by default.
    absorbed : bool
        The form of attention, see `dsv3_numerics.model.MLA`. The recipe is measured in the other form too.
    perturbations : int
        Runs of the recipe on perturbed embeddings, from which the noise floor is estimated.
    folder : path, optional
        Where finished parts are kept (in ``parts/``), and found again.
    restart : bool
        Whether to remove parts that the folder holds already.
    threads : int, optional
        Threads for this run; the figures do not depend on it.
    progress : callable, optional
        Called as ``progress(label, done, total)``, in layers.

    Returns
    -------
    Sensitivity

    Raises
    ------
    ValueError, TypeError
        No such choice or preset; ids that do not fit; a recipe that the checkpoint does not allow; a folder
        with a sensitivity analysis of something else.

    Examples
    --------
    >>> from dsv3_numerics import sensitivity
    >>> from dsv3_numerics.model import Recipe
    >>> model, recipe = sensitivity.random_model(), Recipe(gate="bf16")
    >>> found = sensitivity.run(model, [3, 1, 4, 1, 5], recipe, perturbations=1)
    >>> [cost.choice for cost in found.costs()]
    ['gate']
    >>> found.agreement("all") > 0.5
    True
    """
    if not isinstance(model, Model):
        model = Model.from_checkpoint(model)
    chosen = random_ids(model) if ids is None else ids
    prepared = prepare(
        model,
        chosen,
        recipe,
        only=only,
        absorbed=absorbed,
        perturbations=perturbations,
        folder=folder,
        restart=restart,
    )
    if ids is None:
        prepared.result.notes.append(RANDOM)
    execute(prepared, threads=threads, progress=progress)
    return prepared.result


RANDOM = (
    "RANDOM TOKENS: the ids were drawn at random, so that the model sees no text it was made for. Which "
    "choices matter where can be seen; how much a user of the model would notice cannot. Give a text or "
    "ids."
)
