"""A quantized checkpoint beside the original that it was made from: losses of its conversion, by tensor.

Lives here: `run_against`. Both sides are read as numbers, by the checkpoint room: codes as what they mean.
The sums, the figures and the result are those of a study with a single column, `STORED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._progress import Progress
from ..checkpoint import Skipped, Tensor
from ..schemes import OwnScheme
from .metrics import FIELDS, add_into, empty_row, sums_of
from .result import StudyData, TensorResult
from .saved import Study
from .slabs import SLAB_ELEMENTS, plan
from .state import StudyWorker
from .sweep import Advance, NotFinite, Selection, count_bad, finite, gather, sweep


def _stored(x: object) -> object:
    raise TypeError("as stored: found an array, expected none: it is what a checkpoint holds, and no scheme")


STORED = OwnScheme(_stored, "as stored")
"""Column of the study: whatever the quantized checkpoint holds a tensor in."""

_UNIT = (128, 128)  # borders of slabs, so that blocks are decoded once


class Pair(NamedTuple):
    """A tensor of the quantized checkpoint, and the same one of the original."""

    stored: Tensor
    original: Tensor


def run_against(
    quantized: str | Path,
    original: str | Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    missing_scale: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    slab_elements: int = SLAB_ELEMENTS,
) -> Study:
    """Study what a quantized checkpoint lost against the original that it was made from.

    Parameters
    ----------
    quantized, original : path
        Files or folders, of any dialect that `checkpoint.open` reads. Tensors are paired by their names as
        plain numbers; those without a partner of the same shape are left out, with the reason.
    include, exclude, missing_scale, threads, progress, slab_elements
        As for `run`.

    Returns
    -------
    Study
        Of one column, "as stored". The `kind` of a tensor is the format that the quantized checkpoint holds
        it in; bits are those of its files, with scales.

    Raises
    ------
    CheckpointError
        A checkpoint cannot be read.
    ValueError
        No tensor is in both.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> from dsv3_numerics import checkpoint, study
    >>> w = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    >>> checkpoint.save("original.safetensors", {"w": w})
    >>> checkpoint.save("bf16.safetensors", {"w": w.astype(ml_dtypes.bfloat16)})
    >>> found = study.run_against("bf16.safetensors", "original.safetensors")
    >>> found.kinds, found.totals()[0].pooled.bits_per_element, 50 < found.totals()[0].sqnr_db < 60
    (('bfloat16',), 16.0, True)
    """
    study, pairs = prepare_against(quantized, original, Selection(include, exclude, missing_scale))
    sweep(study, pair_worker(study, pairs, slab_elements), threads=threads, progress=progress)
    return study


def prepare_against(
    quantized: str | Path, original: str | Path, selection: Selection
) -> tuple[Study, list[Pair]]:
    """Make an empty study and the pairs that it is to be of; raises as `run_against` does."""
    mine, theirs = (gather(path, selection.missing_scale) for path in (quantized, original))
    others = {tensor.name: tensor for tensor in theirs.tensors}
    reasons = {entry.name: entry for entry in theirs.skipped}
    pairs: list[Pair] = []
    skipped = [entry for entry in mine.skipped if selection.takes(entry.name)]
    for tensor in mine.tensors:
        if not selection.takes(tensor.name):
            continue
        other = others.pop(tensor.name, None)
        if other is None:
            group = "not in the original" if tensor.name not in reasons else "left out of the original"
            why = f"{group}: {reasons[tensor.name].reason}" if tensor.name in reasons else group
            skipped.append(Skipped(tensor.name, why, tensor.size, group))
        elif other.shape != tensor.shape:
            why = f"shape {list(tensor.shape)}, in the original {list(other.shape)}"
            skipped.append(Skipped(tensor.name, why, tensor.size, "another shape than the original"))
        else:
            pairs.append(Pair(tensor, other))
    known = {entry.name for entry in skipped}
    for name, other in others.items():
        if selection.takes(name) and name not in known:
            group = "only in the original"
            skipped.append(Skipped(name, group, other.size, group))
    if not pairs:
        raise ValueError(f"against: {quantized} and {original} have no tensor in common that is selected")
    settings = {
        "inputs": [str(quantized)],
        "against": str(original),
        "schemes": [str(STORED)],
        **selection.settings(),
        "tensors_selected": len(pairs),
        "elements_selected": sum(pair.stored.size for pair in pairs),
    }
    return Study((STORED,), skipped=skipped, histograms=np.zeros((1, 256, 3)), settings=settings), pairs


def pair_worker(study: Study, pairs: Sequence[Pair], slab_elements: int) -> StudyWorker[Pair]:
    """Return the worker that studies pairs; the study notes the size of slabs."""
    study.settings["slab_elements"] = slab_elements

    def measure(piece: StudyData, pair: Pair, advance: Advance) -> None:
        _study_pair(piece, pair, advance, slab_elements)

    return StudyWorker(study.schemes, pairs, [(p.stored.name, p.stored.size) for p in pairs], measure)


def _study_pair(study: StudyData, pair: Pair, advance: Advance, slab_elements: int) -> None:
    stored, original = pair
    sums, histogram = empty_row(), np.zeros((256, 3))
    with stored.open() as read, original.open() as wanted:
        slabs = plan(stored.rows, stored.cols, _UNIT, slab_elements)
        try:
            for slab in slabs:
                x, y = finite(wanted(*slab)), finite(read(*slab))
                row, part = sums_of(x, y.astype(np.float32, copy=False))
                add_into(sums, row)
                histogram += part
                advance(stored.name, slab.size)
        except NotFinite:
            sides = {"stored": read, "original": wanted}
            bad = {side: count_bad(rows(*slab) for slab in slabs) for side, rows in sides.items()}
            reason = "; ".join(f"{side} {text}" for side, text in bad.items() if text)
            study.skipped.append(Skipped(stored.name, reason, stored.size, "not finite"))
            return
    sums[FIELDS.index("bits")] = stored.stored_bits
    study.histograms[0] += histogram
    study.tensors.append(
        TensorResult(
            stored.name, stored.shape, stored.dtype, stored.origin, sums.reshape(1, -1), stored.stored_as
        )
    )
