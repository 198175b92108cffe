"""Result files: CSV, JSON and text, each whole or absent."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .._atomic import replacing
from .._regular import read_small


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Open a text stream that becomes the file `path` if the block ends well."""
    with replacing(path) as file, open(file.path, "w", newline="", encoding="utf-8") as stream:
        yield stream


def write_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write a CSV file with a header; columns that a row does not have are empty in it."""
    with writing(path) as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_text(text: str, path: Path) -> Path:
    """Write a text file."""
    with writing(path) as stream:
        stream.write(text)
    return path


def write_lines(lines: Iterable[str], path: Path) -> Path:
    """Write a text file, line by line."""
    return write_text("\n".join(lines) + "\n", path)


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write a JSON file; see `json_ready`."""
    return write_text(json.dumps(json_ready(dict(content)), indent=1) + "\n", path)


def json_ready(value: Any) -> Any:
    """Put null for figures that JSON does not have: inf (an exact result) and NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    return value


RESULT_FILES = ("results.json", "results.csv", "report.md")


def other_results(folder: Path, about: Mapping[str, Any]) -> str:
    """Say what a folder holds that a run would overwrite: results of something else; empty if nothing.

    Parameters
    ----------
    folder : Path
    about : mapping
        What the run is of, by the names that results.json or its settings have for it.
    """
    if not any((folder / name).exists() for name in RESULT_FILES):
        return ""
    found = read_results(folder)
    if found is None:
        return "results whose settings cannot be read"
    known = {**found, **found.get("settings", {})}
    wanted = json.loads(json.dumps(json_ready(dict(about))))
    differ = [name for name, value in wanted.items() if known.get(name) != value]
    told = "; ".join(f"{name} ({short(known.get(name))}, now {short(wanted[name])})" for name in differ)
    return f"results of another run: {told}" if differ else ""


def read_results(folder: Path) -> dict[str, Any] | None:
    """Read a folder's results.json; None if it is missing or none."""
    found = read_json(folder / "results.json")
    return found if isinstance(found, dict) and isinstance(found.get("settings", {}), dict) else None


def read_json(path: Path) -> Any:
    """Read a JSON file that anybody may have written; None if it is missing or none."""
    try:
        return json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return None


def short(value: Any) -> str:
    """Write a value of a JSON file in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
