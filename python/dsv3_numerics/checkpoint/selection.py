"""Which tensors are meant: globs for those to take and for those to leave."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import repeat


def selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Tell whether a name matches one of `include`, if there are any, and none of `exclude`."""
    if include and not any(map(fnmatchcase, repeat(name), include)):
        return False
    return not any(map(fnmatchcase, repeat(name), exclude))
