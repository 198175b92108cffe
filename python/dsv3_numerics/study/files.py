"""Result files of a study: CSV and JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..report.files import json_ready, write_rows, writing
from .metrics import METRICS, Metrics
from .result import StudyData, Total

CSV_COLUMNS = ("tensor", "shape", "dtype", "file", "kind", "scheme", *METRICS)


def write_csv(study: StudyData, path: Path) -> Path:
    """One line per tensor and scheme; the header is `CSV_COLUMNS`."""
    return write_rows(CSV_COLUMNS, study.records(), path)


def write_json(study: StudyData, path: Path) -> Path:
    """Everything, one tensor after the other, so that a large study is not built up in memory."""
    with writing(path) as stream:
        _write_json(study, stream)
    return path


def _write_json(study: StudyData, file: IO[str]) -> None:
    head = {
        "partial": study.partial or None,
        "notes": study.notes,
        "settings": study.settings,
        "seconds": study.seconds,
        "elements": study.elements,
        "left_out": [group._asdict() for group in study.left_out()],
        "skipped": [vars(s) for s in study.skipped],
        "totals": _totals(study.totals()),
        **({"totals_by_kind": {k: _totals(study.totals(k)) for k in study.kinds}} if study.kinds else {}),
        "errors_by_magnitude": _octaves(study),
    }
    file.write(json.dumps(json_ready(head), indent=1)[:-2] + ',\n "tensors": [')
    for i, tensor in enumerate(study.tensors):
        about = {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype, "file": tensor.origin}
        about |= {"kind": tensor.kind} if tensor.kind else {}
        results = {str(s): vars(Metrics.of(row)) for s, row in zip(study.schemes, tensor.sums, strict=True)}
        file.write((",\n  " if i else "\n  ") + json.dumps(json_ready({**about, "results": results})))
    file.write("\n ]\n}\n")


def _totals(totals: list[Total]) -> list[dict[str, Any]]:
    return [
        {"scheme": str(t.scheme), "sqnr_db": t.sqnr_db, "pooled": vars(t.pooled)}
        | {"median_sqnr_db": t.median_sqnr_db, "worst_sqnr_db": t.worst_sqnr_db}
        | {"worst_tensor": t.worst_tensor}
        for t in totals
    ]


def octaves(histogram: npt.NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """Return the octaves that hold elements: (exponent, elements, root mean square of e/x).

    Octave k is 2^k <= abs(x) < 2^(k+1); the subnormals of float32, where no exponent is, are left out.
    """
    return [
        (field - 127, int(count), math.sqrt(square / count))
        for field, (count, square, _) in enumerate(histogram)
        if count and 0 < field < 255
    ]


def _octaves(study: StudyData) -> dict[str, list[dict[str, Any]]]:
    names = ("exponent", "elements", "rms_relative_error")
    return {
        str(s): [dict(zip(names, row, strict=True)) for row in octaves(h)]
        for s, h in zip(study.schemes, study.histograms, strict=True)
    }
