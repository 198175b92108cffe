"""Calls that were checked: what a small call needs besides its arrays, kept by its other arguments.

Lives here: the cache, and which arrays may pass. A call whose arguments were understood once is done from its
plan as long as they are the same; anything out of the ordinary (``out=``, views, other byte orders, seeds)
takes the way through all checks. What a call returns and raises does not depend on it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np

from ._arrays import Array

Plan = TypeVar("Plan")
_MOST = 2048


class CallPlans(Generic[Plan]):
    """Plans by the arguments that they were made for; emptied when there are too many."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}

    def find(self, key: tuple[Any, ...]) -> Plan | None:
        """Return the plan for some arguments; None where there is none, or where they cannot be compared."""
        try:
            return self._plans.get(key)
        except TypeError:
            return None

    def keep(self, key: tuple[Any, ...], plan: Plan) -> None:
        """Keep a plan for arguments that were checked."""
        try:
            if len(self._plans) >= _MOST:
                self._plans.clear()
            self._plans[key] = plan
        except TypeError:
            pass


def is_plain(x: Any) -> bool:
    """Return True for arrays that the core takes as they are, if their dtype is."""
    if type(x) is not np.ndarray:
        return False
    flags = x.flags
    return bool(flags.c_contiguous and flags.aligned)


def as_core(x: Array, raw: Any) -> Array:
    """Return a plain array with one axis, seen as `raw` where that is no None."""
    if x.ndim != 1:
        x = x.reshape(-1)
    return x if raw is None else x.view(raw)
