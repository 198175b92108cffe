"""The table of experiments, one row each."""

from __future__ import annotations

import difflib

from . import accumulation, combine, drift, fit, logfmt_report, promotion, training_report
from .experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    logfmt_report.EXPERIMENT,
    combine.EXPERIMENT,
    accumulation.EXPERIMENT,
    promotion.EXPERIMENT,
    drift.EXPERIMENT,
    training_report.EXPERIMENT,
    fit.EXPERIMENT,
)
"""All experiments, in the order of the documentation."""


def find(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises
    ------
    ValueError
        There is none; the message lists those that are.

    Examples
    --------
    >>> from dsv3_numerics.experiments import find
    >>> find("logfmt").title
    'LogFMT beside floating-point formats'
    """
    names = [e.name for e in EXPERIMENTS]
    if name in names:
        return EXPERIMENTS[names.index(name)]
    close = difflib.get_close_matches(name, names, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"name: found {name!r}, expected one of {', '.join(names)}{hint}")
