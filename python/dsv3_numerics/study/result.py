"""The result of a study: sums per tensor and scheme, and the figures made of them.

A study of a checkpoint with a hundred thousand tensors stays small: per tensor and scheme it holds one row of
sums (96 bytes), and the errors by magnitude are held per scheme only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..checkpoint import Skipped
from ..schemes import Scheme
from .metrics import FIELDS, Metrics, add_into, empty_row, sqnr_db

_X2, _E2 = FIELDS.index("sum_x2"), FIELDS.index("sum_e2")


@dataclass(frozen=True)
class TensorResult:
    """One tensor under every scheme: `sums` has a row per scheme, its columns are `metrics.FIELDS`.

    `kind` is that of an activation, as "attention input"; empty for a weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    origin: str
    sums: npt.NDArray[np.float64]
    kind: str = ""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Total:
    """One scheme over all tensors.

    Attributes
    ----------
    scheme : Scheme
        The scheme, a column of the study.
    sqnr_db : float
        Of the noise-to-signal ratios of the tensors, averaged with their numbers of elements as weights. Each
        tensor is measured against its own size, so that a few large values do not speak for all.
    pooled : Metrics
        Of all elements together, as if the tensors were one.
    median_sqnr_db, worst_sqnr_db : float
        Over tensors, each counting once.
    worst_tensor : str
        The tensor with the lowest SQNR.
    """

    scheme: Scheme
    sqnr_db: float
    pooled: Metrics
    median_sqnr_db: float
    worst_sqnr_db: float
    worst_tensor: str


class LeftOut(NamedTuple):
    """Tensors left out for one reason; `share` is of the elements of all tensors, studied or not."""

    reason: str
    tensors: int
    elements: int
    share: float
    example: str


@dataclass
class StudyData:
    """Errors of tensors under schemes.

    Attributes
    ----------
    schemes : tuple of Scheme
    tensors : list of TensorResult
        In the order in which they were read.
    skipped : list of Skipped
        Tensors left out, each with its reason.
    histograms : ndarray of float64, shape (schemes, 256, 3)
        Over all tensors, by exponent field of abs(x) as float32: count, sum of (e/x)^2, sum of e^2.
    settings : dict
        How it was run, for the JSON file and the report.
    notes : list of str
        What a reader has to know, such as a synthetic demo set.
    partial : str
        Why the study is not complete; empty if it is.
    seconds : float
        Time the sweep took.
    """

    schemes: tuple[Scheme, ...]
    tensors: list[TensorResult] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    histograms: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 256, 3)))
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    partial: str = ""
    seconds: float = 0.0

    @property
    def elements(self) -> int:
        """Elements of all tensors studied."""
        return sum(t.size for t in self.tensors)

    def remarks(self) -> list[str]:
        """List the notes, and what a floor of a scale rule decided: errors there are not the format's."""
        found = list(self.notes)
        for scheme, (tensors, elements) in self.settings.get("floored", {}).items():
            share = elements / max(self.elements, 1)
            found.append(
                f"{scheme}: a floor of its rule made scales larger than the numbers need, for "
                f"{elements:,} elements ({share:.2g} of all) in {tensors} tensor{'s' * (tensors != 1)}. A "
                "rule without one shows the format alone, as deepseek_v3(amax_floor=0) behind the scale does."
            )
        return found

    def names(self) -> set[str]:
        """Collect the names of all tensors that are done or left out."""
        return {t.name for t in self.tensors} | {s.name for s in self.skipped}

    def left_out(self) -> list[LeftOut]:
        """Count what is left out by reason, most elements first."""
        groups: dict[str, list[Skipped]] = {}
        for entry in self.skipped:
            groups.setdefault(entry.group or entry.reason, []).append(entry)
        whole = self.elements + sum(entry.elements for entry in self.skipped)
        found = []
        for reason, entries in groups.items():
            elements = sum(entry.elements for entry in entries)
            found.append(LeftOut(reason, len(entries), elements, elements / max(whole, 1), entries[0].name))
        return sorted(found, key=lambda group: (-group.elements, -group.tensors))

    def metrics(self, tensor: str, scheme: str | Scheme) -> Metrics:
        """Return the figures of one tensor under one scheme.

        Raises
        ------
        KeyError
            There is no such tensor in the study, or no such scheme.
        """
        found = next((t for t in self.tensors if t.name == tensor), None)
        wanted = Scheme.parse(scheme)
        if found is None or wanted not in self.schemes:
            raise KeyError(f"the study has no {tensor!r} under {wanted}")
        return Metrics.of(found.sums[self.schemes.index(wanted)])

    def records(self) -> Iterator[dict[str, Any]]:
        """One flat record per tensor and scheme: what the CSV file holds.

        ``pandas.DataFrame(study.records())`` makes a data frame of them.
        """
        spelled = [str(s) for s in self.schemes]
        for t in self.tensors:
            about = {
                "tensor": t.name,
                "shape": "x".join(map(str, t.shape)),
                "dtype": t.dtype,
                "file": t.origin,
                "kind": t.kind,
            }
            for scheme, row in zip(spelled, t.sums, strict=True):
                yield {**about, "scheme": scheme, **vars(Metrics.of(row))}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of activations, in the order in which they came; none in a study of weights."""
        return tuple(dict.fromkeys(t.kind for t in self.tensors if t.kind))

    def sqnr_db(self, kind: str | None = None) -> npt.NDArray[np.float64]:
        """SQNR in decibels, shape (tensors, schemes); inf where nothing changed. Of one kind, if given."""
        pairs = [t.sums[:, [_X2, _E2]] for t in self._of(kind)]
        x2, e2 = np.array(pairs).reshape(-1, len(self.schemes), 2).transpose(2, 0, 1)
        with np.errstate(divide="ignore"):
            db = 10 * (np.log10(x2) - np.log10(e2, where=e2 > 0, out=np.zeros_like(e2)))
        return np.where(e2 > 0, db, np.inf)

    def totals(self, kind: str | None = None) -> list[Total]:
        """Every scheme over all tensors, or those of one kind, in the order of the schemes; empty if none."""
        tensors = self._of(kind)
        if not tensors:
            return []
        pooled = np.stack([empty_row() for _ in self.schemes])
        for tensor in tensors:
            add_into(pooled, tensor.sums)
        db = self.sqnr_db(kind)
        worst = db.argmin(axis=0)
        weights = np.array([t.size * bool(t.sums[0, _X2]) for t in tensors], np.float64)
        noise = weights @ 10 ** (-db / 10) / max(weights.sum(), 1.0)
        return [
            Total(
                scheme,
                sqnr_db(1.0, float(noise[i])),
                Metrics.of(pooled[i]),
                _median(db[:, i]),
                float(db[worst[i], i]),
                tensors[worst[i]].name,
            )
            for i, scheme in enumerate(self.schemes)
        ]

    def _of(self, kind: str | None) -> list[TensorResult]:
        return self.tensors if kind is None else [t for t in self.tensors if t.kind == kind]


def _median(values: npt.NDArray[np.float64]) -> float:
    """Return the median, also among infinities (the lower of the middle two, so that no inf - inf arises)."""
    ordered = np.sort(values)
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    return low if math.isinf(low) or math.isinf(high) else (low + high) / 2
