"""Which tensors are meant: globs for those to take and for those to leave."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Tell whether a name matches one of `include`, if there are any, and none of `exclude`."""
    wanted = not include or any(fnmatchcase(name, glob) for glob in include)
    return wanted and not any(fnmatchcase(name, glob) for glob in exclude)
