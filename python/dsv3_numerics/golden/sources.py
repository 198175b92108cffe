"""Real numbers as inputs: tensors of a checkpoint, and activations of a model that reads a text.

Lives here: `real_matrix`, and the texts and models behind it. Activations come of the canonical forward, so
that they too are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import checkpoint
from .._arrays import Array
from ..model.byte_tokenizer import ByteTokenizer
from ..model.demo import demo_checkpoint, demo_text
from ..model.model import Model
from ..model.records import OpRecord
from ..model.weights import CheckpointWeights
from ..quantized import Quantized
from .canonical import Canonical

DEMO = "demo"
_TOKENS = 64


def folder_of(source: str) -> Path:
    """Return the folder of a checkpoint, or of the demo model.

    Raises
    ------
    FileNotFoundError
        There is nothing of this name.
    """
    path = demo_checkpoint() if source == DEMO else Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"from: found no {source!r}, expected a checkpoint's folder or file, or {DEMO!r}"
        )
    return path


def demo_ids(tokens: int) -> NDArray[np.int64]:
    """Return the first tokens of the demo's held-out text.

    Examples
    --------
    >>> demo_ids(3).tolist()
    [83, 105, 114]
    """
    text = demo_text()
    start = text.index("Sir Walter")
    tokenizer = ByteTokenizer.from_file(demo_checkpoint() / "tokenizer.json")
    assert tokenizer is not None
    return np.array(tokenizer.encode(text[start : start + tokens]), np.int64)[:tokens]


def real_matrix(source: str, name: str) -> Array:
    """Return a tensor of a checkpoint as float32 numbers, or an activation, as a matrix.

    Parameters
    ----------
    source : str
        A checkpoint's folder or file, or ``demo``.
    name : str
        A tensor's name; of a folder with a model also an operation (``layer1.q_a_proj``), whose input it is,
        or a trace (``layer1.ffn_norm``), on the demo's text, or on the ids 0, 1, 2, ... of another model.

    Raises
    ------
    ValueError
        There is nothing of this name, or it is not of numbers.
    OSError
        It cannot be read.

    Examples
    --------
    >>> real_matrix("demo", "layer1.q_a_proj").shape
    (64, 256)
    """
    with checkpoint.open(folder_of(source)) as opened:
        stored = CheckpointWeights(opened)
        names = list(stored)
        if name in names:
            held = stored[name]
            return _matrix(held.dequantize() if isinstance(held, Quantized) else np.array(held), name)
    found, known = _activation(source, name)
    if found is None:
        raise ValueError(
            f"tensor: found no {name!r} in {source}, expected one of its {len(names)} tensors "
            f"({', '.join(names[:2])}, ...)" + (f", or one of {', '.join(known[:4])}, ..." if known else "")
        )
    return _matrix(found, name)


def _matrix(numbers: Array, name: str) -> Array:
    if numbers.dtype.kind not in "fV" or not numbers.size:
        raise ValueError(f"tensor: found {name} of {numbers.dtype} {numbers.shape}, expected numbers")
    with np.errstate(over="raise"):
        wide = numbers.astype(np.float32)
    return np.ascontiguousarray(wide.reshape(-1, wide.shape[-1]) if wide.ndim else wide.reshape(1, 1))


def model_of(source: str) -> Model:
    """Open the model of a folder, or the demo model."""
    return Model.from_checkpoint(folder_of(source))


def model_ids(source: str, config: Any, tokens: int) -> NDArray[np.int64]:
    """Return ids for a model to read: the demo's text, or 0, 1, 2, ... of another vocabulary."""
    if source == DEMO:
        return demo_ids(tokens)
    found: NDArray[np.int64] = np.arange(tokens, dtype=np.int64) % config.vocab_size
    return found


def _activation(source: str, name: str) -> tuple[Array | None, Sequence[str]]:
    path = folder_of(source)
    if not (path.is_dir() and (path / "config.json").is_file()):
        return None, ()
    found, known = recorded(source)
    return found.get(name), known


@lru_cache(maxsize=1)
def recorded(source: str) -> tuple[dict[str, Array], list[str]]:
    """Run a model, and return inputs of its operations and traces, by name, and the operations' names."""
    model = model_of(source)
    found: dict[str, Array] = {}

    def hook(record: OpRecord) -> None:
        if record.inputs[0].dtype.kind == "f":
            found[record.operation.name] = np.array(record.inputs[0])

    ops = Canonical("float32", hook)
    traces = model.trace(model_ids(source, model.config, _TOKENS)[None], recipe=ops)
    return {**traces, **found}, list(found)
