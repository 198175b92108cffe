"""State of an unfinished study: the sums of the tensors that are done, so that a second run goes on.

Lives here: `Unfinished`, a file beside the results. It says what it is a study of; that of another one is
never taken up. It appears whole, is written now and then during the work, and goes when all is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._archive import Meta, as_dtype, read_archive, write_archive
from .._arrays import Array
from ..checkpoint import Skipped
from .metrics import FIELDS
from .result import StudyData, TensorResult

FILE = "unfinished.npz"
_KIND = "Study"
_EVERY = 60.0  # seconds between two writes


class Unfinished:
    """File that holds what is done of a study.

    Parameters
    ----------
    folder : Path
        Of the study.
    about : mapping
        What the study is of; a state of another study is refused.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self.about = dict(about)
        self._written = time.monotonic()

    def exists(self) -> bool:
        """Tell whether there is such a state."""
        return self.path.exists()

    def load(self, study: StudyData) -> None:
        """Take up what was done.

        Raises
        ------
        ValueError
            The file is of another study, or none.
        """
        meta, sums, histograms = read_archive(self.path, _KIND, ("sums", "histograms"), _read)
        differ = [name for name, value in self.about.items() if meta["about"].get(name) != value]
        shape = (len(meta["tensors"]), len(study.schemes), len(FIELDS))
        if differ or sums.shape != shape or histograms.shape != study.histograms.shape:
            other = ", ".join(differ) or "shapes"
            raise ValueError(f"{self.path}: holds an unfinished study of other {other}")
        study.tensors[:] = [
            TensorResult(t["name"], tuple(t["shape"]), t["dtype"], t["origin"], row, t["kind"])
            for t, row in zip(meta["tensors"], sums, strict=True)
        ]
        study.skipped[:] = [Skipped(**entry) for entry in meta["skipped"]]
        study.histograms = histograms
        study.seconds = meta["seconds"]

    def save(self, study: StudyData) -> None:
        """Write what is done."""
        names = ("name", "shape", "dtype", "origin", "kind")
        meta = {
            "about": self.about,
            "tensors": [{name: getattr(t, name) for name in names} for t in study.tensors],
            "skipped": [vars(entry) for entry in study.skipped],
            "seconds": study.seconds,
        }
        sums = np.array([t.sums for t in study.tensors]).reshape(-1, len(study.schemes), len(FIELDS))
        write_archive(self.path, _KIND, meta, {"sums": sums, "histograms": study.histograms})
        self._written = time.monotonic()

    def save_if_due(self, study: StudyData) -> None:
        """Write what is done, if the last time is a while ago."""
        if time.monotonic() - self._written >= _EVERY:
            self.save(study)

    def remove(self) -> None:
        """Forget it: all is done."""
        self.path.unlink(missing_ok=True)


def _read(meta: Meta, arrays: dict[str, Array]) -> tuple[Meta, Array, Array]:
    sums, histograms = (as_dtype(arrays[name], np.float64) for name in ("sums", "histograms"))
    expected = {"about": dict, "tensors": list, "skipped": list, "seconds": float}
    if any(not isinstance(meta.get(name), kind) for name, kind in expected.items()):
        raise ValueError(f"facts {sorted(meta)}")
    names = {"name", "shape", "dtype", "origin", "kind"}
    if any(not isinstance(t, dict) or set(t) != names for t in meta["tensors"]):
        raise ValueError("tensors without their facts")
    return meta, sums, histograms
