"""Calls that were checked: what a small call needs besides its arrays, kept by its other arguments.

Lives here: the cache, and which arrays may pass. A call whose arguments were understood once is done from its
plan as long as they are the same; anything out of the ordinary (views, other byte orders, seeds) takes the
way through all checks. What a call returns and raises does not depend on it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from weakref import ref

import numpy as np

from ._arrays import Array, is_direct

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


class KeptByObject(Generic[Plan]):
    """Results by the object that they were made of, as long as it lives."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[ref[Any], Plan]] = {}

    def find(self, x: Any) -> Plan | None:
        """Return what was made of this very object; None where nothing was."""
        found = self._kept.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def keep(self, x: Any, made: Plan) -> None:
        """Keep what was made of an object."""
        kept, key = self._kept, id(x)

        def forget(gone: ref[Any]) -> None:
            found = kept.get(key)
            if found is not None and found[0] is gone:
                del kept[key]

        kept[key] = (ref(x, forget), made)


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


def takes(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Array) -> bool:
    """Return True if a result of native `dtype` can be written into `out` itself, apart from inputs."""
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        return False
    return is_direct(out, *inputs)
