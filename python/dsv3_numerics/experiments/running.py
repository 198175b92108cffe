"""Running an experiment: its jobs in order, a call of `progress` after each, rows kept as they come."""

from __future__ import annotations

from .._progress import Meter, Progress
from ..report.running import recorded
from .experiment import Experiment, Job, RunConfig
from .saved import Result


def prepare(experiment: Experiment, *, seed: int = 0, quick: bool = False) -> tuple[Result, list[Job]]:
    """Return an empty result and the jobs to execute it with."""
    if seed < 0:
        raise ValueError(f"seed: found {seed}, expected 0 or more")
    config = RunConfig(seed, quick)
    return Result(experiment, config, settings={"seed": seed, "quick": quick}), experiment.jobs(config)


def execute(
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
    meter = Meter(progress, sum(job.cost for job in jobs))
    with recorded(result, threads):
        for job in jobs:
            meter.advance(job.label)
            result.rows += list(job.measure())  # all of them or, when interrupted, none
            meter.advance(job.label, job.cost)


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
        Called as ``progress(label, done, total)``, in the unit of ``Job.cost``.

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
    >>> found.findings()[0].startswith("Hopper's FP8 unit")
    True
    """
    from .table import find

    chosen = find(experiment) if isinstance(experiment, str) else experiment
    result, jobs = prepare(chosen, seed=seed, quick=quick)
    execute(result, jobs, threads=threads, progress=progress)
    return result
