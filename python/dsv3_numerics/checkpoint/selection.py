"""Which tensors are meant: globs for those to take and for those to leave."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import repeat

_OTHER_PARTS = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|multi_modal_projector|mm_projector)\.")


def selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Tell whether a name matches one of `include`, if there are any, and none of `exclude`."""
    if include and not any(map(fnmatchcase, repeat(name), include)):
        return False
    return not any(map(fnmatchcase, repeat(name), exclude))


def is_of_text(name: str) -> bool:
    """Tell if a tensor is of a model's text part, not of what a multimodal model sees or hears with.

    Examples
    --------
    >>> is_of_text("language_model.model.layers.0.mlp.up_proj.weight"), is_of_text("vision_tower.layers.0.w")
    (True, False)
    """
    return _OTHER_PARTS.search(name) is None
