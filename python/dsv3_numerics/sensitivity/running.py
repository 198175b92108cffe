"""Running an attribution: part by part, each kept as soon as it is done, so that a second run continues."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import as_array, positive
from ..machine import get_num_threads, set_num_threads
from ..model import Config, Model, Recipe, random_weights
from ..study.files import json_ready
from ..study.provenance import environment
from .forward import Subject
from .identity import about
from .measuring import MEASURES
from .parts import Kept
from .result import Attribution
from .variants import OPERATORS, PARTS, Variant, variants

Progress = Callable[[str, float], None]
"""Called with what is being done, and how many layers were done since the last call."""

TOKENS = 64


class Job(NamedTuple):
    """One part of one variant; `cost` counts layers."""

    variant: Variant
    part: str
    cost: float

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.part}: {self.variant.name}"


class Prepared(NamedTuple):
    """An attribution that may have begun, and what is left to do."""

    result: Attribution
    jobs: list[Job]
    subject: Subject
    kept: Kept | None


def demo_model() -> Model:
    """A small random model, to see an attribution at once.

    Examples
    --------
    >>> from dsv3_numerics.attribution import demo_model
    >>> demo_model().config.num_hidden_layers
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
    nudges: int = 6,
    folder: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> Prepared:
    """What there is to do, after looking at what a folder holds; see `run` for the arguments."""
    chosen = Recipe.preset(recipe) if isinstance(recipe, str) else recipe
    array = as_array(ids, "ids")
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or not array.size:
        raise ValueError(
            f"ids: found {array.dtype} {array.shape}, expected integers, (tokens,) or (batch, tokens), at "
            "least one"
        )
    array = np.atleast_2d(array).astype(np.int64)
    if nudges < 0:
        raise ValueError(f"nudges: found {nudges}, expected 0 or more")
    if array.min() < 0 or array.max() >= model.config.vocab_size:
        raise ValueError(
            f"ids: found {array.min()} to {array.max()}, expected 0 to {model.config.vocab_size - 1}"
        )
    found = variants(chosen, only, absorbed=absorbed, nudges=nudges)
    for each in dict.fromkeys(variant.recipe for variant in found):
        model.embed(array[:, :1], recipe=each)  # refuses what the checkpoint does not allow, before any work
    settings = about(model, array, chosen, absorbed)
    kept = None if folder is None else Kept(Path(folder), settings, restart=restart)
    result = Attribution(chosen, found, settings=settings)
    jobs = []
    # whole forwards first: they say most
    for part in reversed(PARTS):
        for variant in found:
            if part not in variant.parts:
                continue
            done = kept.load(variant, part) if kept is not None else None
            if done is not None:
                result.parts[part, variant.name] = done
            else:
                jobs.append(Job(variant, part, _cost(model, part, variant)))
    return Prepared(result, jobs, Subject(model, array, chosen, absorbed), kept)


def _cost(model: Model, part: str, variant: Variant) -> float:
    """In layers: an operation is done twice, and so is a forward that is nudged in float64 too."""
    return len(model.layers) * (2.0 if part == OPERATORS or variant.nudge else 1.0)


def fill(prepared: Prepared, *, threads: int | None = None, progress: Progress | None = None) -> None:
    """Do what is left; if interrupted, the result (and the folder) hold the parts that were finished.

    Parameters
    ----------
    prepared : Prepared
    threads : int, optional
        Threads for this run; the figures do not depend on it.
    progress : callable, optional
    """
    result, jobs, subject, kept = prepared
    report = progress or (lambda label, done: None)
    before = get_num_threads()
    if threads is not None:
        set_num_threads(threads)
    result.settings |= environment()
    start = time.perf_counter()
    try:
        if jobs:
            report("reference: float64", 0)
            subject.reference()
        for job in jobs:
            left = job.cost
            report(job.label, 0)

            def step(label: str = job.label) -> None:
                nonlocal left
                report(label, min(1.0, left))
                left -= min(1.0, left)

            found = MEASURES[job.part](subject, job.variant, step)
            content = json.loads(json.dumps(json_ready(found), sort_keys=True))  # as it is read back
            if kept is not None:
                kept.save(job.variant, job.part, content)
            result.parts[job.part, job.variant.name] = content
            report(job.label, left)
    finally:
        result.seconds += time.perf_counter() - start
        set_num_threads(before)


def run(
    model: Model | str | os.PathLike[str],
    ids: npt.ArrayLike | None = None,
    recipe: str | Recipe = "deepseek_v3",
    *,
    only: Iterable[str] = (),
    absorbed: bool = False,
    nudges: int = 6,
    folder: str | os.PathLike[str] | None = None,
    restart: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Attribution:
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
    nudges : int
        Runs of the recipe on nudged embeddings, which show what chance does to its figures.
    folder : path, optional
        Where finished parts are kept (in ``parts/``), and found again.
    restart : bool
        Whether to remove parts that the folder holds already.
    threads : int, optional
        Threads for this run; the figures do not depend on it.
    progress : callable, optional
        Called with what is being done, and how many layers were done since the last call.

    Returns
    -------
    Attribution

    Raises
    ------
    ValueError, TypeError
        No such choice or preset; ids that do not fit; a recipe that the checkpoint does not allow; a folder
        with an attribution of something else.

    Examples
    --------
    >>> from dsv3_numerics import attribution
    >>> from dsv3_numerics.model import Recipe
    >>> found = attribution.run(attribution.demo_model(), [3, 1, 4, 1, 5], Recipe(gate="bfloat16"), nudges=1)
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
        nudges=nudges,
        folder=folder,
        restart=restart,
    )
    if ids is None:
        prepared.result.notes.append(RANDOM)
    fill(prepared, threads=threads, progress=progress)
    return prepared.result


RANDOM = (
    "RANDOM TOKENS: the ids were drawn at random, so that the model sees no text it was made for. Which "
    "choices matter where can be seen; how much a user of the model would notice cannot. Give a text or "
    "ids."
)
RANDOM_MODEL = (
    "RANDOM WEIGHTS: the demo's model was drawn at random and trained on nothing. It shows what an "
    "attribution is, and says nothing about DeepSeek-V3."
)
