"""Identity of a sensitivity analysis, as data: two runs whose `about` is the same may share a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..model import Model, Recipe
from ..quantized import Quantized
from ..report.provenance import environment
from .parts import VERSION

_SAMPLED = ("self_attn.", "mlp.experts.0.", "mlp.gate_proj", "lm_head")


def about(model: Model, ids: npt.NDArray[np.int64], recipe: Recipe, absorbed: bool) -> dict[str, Any]:
    """Model, recipe, ids, form of attention and version."""
    return {
        "version": environment()["versions"]["dsv3_numerics"],
        "parts_version": VERSION,
        "model": fingerprint(model),
        "recipe": json.loads(recipe.to_json()),
        "ids": ids.tolist(),
        "absorbed": absorbed,
    }


def fingerprint(model: Model) -> str:
    """Return a digest of a model: its config, all norms and biases, and the first row of some matrices.

    It reads a few megabytes of any model. Models that differ in other rows alone have the same.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name in model.weights:
        for piece in _pieces(model, name):
            digest.update(name.encode())
            digest.update(piece)
    return digest.hexdigest()[:32]


def _pieces(model: Model, name: str) -> Iterator[bytes]:
    if not (name.endswith(("norm.weight", "bias")) or any(part in name for part in _SAMPLED)):
        return
    given = model.weights.raw(name)
    arrays = [given.codes, given.weight_scale_inv()] if isinstance(given, Quantized) else [np.asarray(given)]
    for array in arrays:
        yield str(array.dtype).encode()
        yield np.ascontiguousarray(array[0] if array.ndim > 1 else array).tobytes()
