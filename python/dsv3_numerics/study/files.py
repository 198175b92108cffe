"""Result files: CSV and JSON. Each is written under another name and then renamed: it is whole or absent."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .metrics import METRICS, Metrics
from .result import Study, Total

CSV_COLUMNS = ("tensor", "shape", "dtype", "file", "kind", "scheme", *METRICS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which becomes `path` if the block ends well and is removed if not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "r+b") as written:  # on the disk before it takes an older file's name
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def ensure_writable(folder: Path) -> None:
    """Make a folder if need be, and check that a file can be written in it.

    Raises
    ------
    OSError
        It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")


def write_csv(study: Study, path: Path) -> Path:
    """One line per tensor and scheme; the header is `CSV_COLUMNS`."""
    return write_rows(CSV_COLUMNS, study.records(), path)


def write_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """A CSV file with a header; columns that a row does not have are empty in it."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_text(text: str, path: Path) -> Path:
    """A text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(study: Study, path: Path) -> Path:
    """Everything, one tensor after the other, so that a large study is not built up in memory."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        _write_json(study, file)
    return path


def _write_json(study: Study, file: IO[str]) -> None:
    head = {
        "partial": study.partial or None,
        "notes": study.notes,
        "settings": study.settings,
        "seconds": study.seconds,
        "elements": study.elements,
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
    """The octaves that hold elements: (exponent, elements, root mean square of e/x).

    Octave k is 2^k <= abs(x) < 2^(k+1); the subnormals of float32, where no exponent is, are left out.
    """
    return [
        (field - 127, int(count), math.sqrt(square / count))
        for field, (count, square, _) in enumerate(histogram)
        if count and 0 < field < 255
    ]


def _octaves(study: Study) -> dict[str, list[dict[str, Any]]]:
    names = ("exponent", "elements", "rms_relative_error")
    return {
        str(s): [dict(zip(names, row, strict=True)) for row in octaves(h)]
        for s, h in zip(study.schemes, study.histograms, strict=True)
    }


def json_ready(value: Any) -> Any:
    """A value with null for what JSON cannot say: inf (an exact result) and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    return value
