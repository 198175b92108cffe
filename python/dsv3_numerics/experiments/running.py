"""Running an experiment: its jobs in order, a call of `progress` after each, rows kept as they come."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..machine import get_num_threads, set_num_threads
from ..study.provenance import environment
from .experiment import Experiment, Job, Result, Setting

Progress = Callable[[str, float], None]
"""Called with the label of the job that is next, and the cost of what was done since the last call."""


def prepare(experiment: Experiment, *, seed: int = 0, quick: bool = False) -> tuple[Result, list[Job]]:
    """An empty result and the jobs to fill it with."""
    if seed < 0:
        raise ValueError(f"seed: found {seed}, expected 0 or more")
    setting = Setting(seed, quick)
    return Result(experiment, setting, settings={"seed": seed, "quick": quick}), experiment.jobs(setting)


def fill(
    result: Result, jobs: list[Job], *, threads: int | None = None, progress: Progress | None = None
) -> None:
    """Do the jobs; if interrupted, the result holds the rows of those that were finished.

    Parameters
    ----------
    result : Result
    jobs : list of Job
    threads : int, optional
        Threads for this run; the rows do not depend on it.
    progress : callable, optional
    """
    report = progress or (lambda label, cost: None)
    before = get_num_threads()
    if threads is not None:
        set_num_threads(threads)
    result.settings |= environment()
    start = time.perf_counter()
    try:
        for job in jobs:
            report(job.label, 0)
            result.rows += list(job.measure())  # all of them or, when interrupted, none
            report(job.label, job.cost)
    finally:
        result.seconds += time.perf_counter() - start
        set_num_threads(before)


def run(
    experiment: Experiment | str,
    *,
    seed: int = 0,
    quick: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run an experiment.

    Parameters
    ----------
    experiment : Experiment or str
        A row of `EXPERIMENTS`, or its name.
    seed : int
        Of all random numbers, 0 or more. The same seed gives the same rows.
    quick : bool
        Small sizes, done in seconds: the figures scatter more.
    threads : int, optional
        Threads for this run; the rows do not depend on it.
    progress : callable, optional
        Called with the label of a job and the cost of what was just done, in the unit of ``Job.cost``.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        No experiment has this name; a negative seed.

    Examples
    --------
    >>> from dsv3_numerics import experiments
    >>> found = experiments.run("promotion", quick=True)
    >>> found.remarks()[0].startswith("Hopper's FP8 unit")
    True
    """
    from .table import find

    chosen = find(experiment) if isinstance(experiment, str) else experiment
    result, jobs = prepare(chosen, seed=seed, quick=quick)
    fill(result, jobs, threads=threads, progress=progress)
    return result
