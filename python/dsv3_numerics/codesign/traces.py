"""Runs of our own forward: the experts that its gates choose, and a model with ids to measure errors on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import integer

if TYPE_CHECKING:
    from ..model import Model


def open_model(
    folder: str | Path | None, *, tokens: int = 512, seed: int = 0
) -> tuple[Model, NDArray[np.int64], str]:
    """Open a checkpoint, with random ids, or (`folder` None) the trained demo model, with its held-out text.

    Returns
    -------
    model : Model
    ids : ndarray of int64, shape (tokens,)
    source : str
        What it is, for reports.

    Raises
    ------
    ValueError
        No demo model in this build.
    """
    from .. import model

    room: Any = model

    tokens = integer(tokens, "tokens", 1, 1 << 20)
    if folder is None:
        if not hasattr(room, "demo_checkpoint"):
            raise ValueError("demo: this build has no trained model, expected a folder (--model)")
        demo = room.demo_checkpoint()
        text = room.demo_text()
        words = room.ByteTokenizer.from_file(demo / "tokenizer.json")
        ids = np.asarray(words.encode(text)[:tokens], np.int64)
        return room.Model.from_checkpoint(demo), ids, f"{demo.name}, {len(ids)} held-out tokens"
    found = room.Model.from_checkpoint(Path(folder))
    drawn = np.random.default_rng(seed).integers(found.config.vocab_size, size=tokens)
    return found, drawn, f"{Path(folder).resolve().name}, {tokens} random tokens"


def chosen_experts(model: Model, ids: Any) -> NDArray[np.int64]:
    """Experts that a forward's gates choose, shape (layers, tokens, chosen).

    Raises
    ------
    ValueError
        The model has no experts.
    """
    layers = range(model.config.num_hidden_layers)  # what drafts tokens (MTP) sees others
    known = set(model.trace_names())
    names = [name for i in layers if (name := f"layer{i}.topk_idx") in known]
    if not names:
        raise ValueError("model: has no experts, whose choices are asked for")
    traced = model.trace(ids, names)
    found: NDArray[np.int64] = np.concatenate([traced[name].astype(np.int64) for name in names])
    return found


def expert_loads(model: Model, ids: Any) -> NDArray[np.int64]:
    """Tokens of each expert, shape (layers, experts)."""
    experts = model.config.n_routed_experts
    return np.stack(
        [np.bincount(layer.reshape(-1), minlength=experts) for layer in chosen_experts(model, ids)]
    )
