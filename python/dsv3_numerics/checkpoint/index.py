"""Where a checkpoint's files are: a file, a folder, an index, a model cache; and its JSON files, read safely.

Lives here: what a path stands for, and which names an index may use. Files come from strangers: lengths are
bounded, names stay below their folder, and only regular files are opened. What is in the files is found out
in `scan`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .readers import CheckpointError, readable

INDEX_NAME = "model.safetensors.index.json"
SUFFIX = ".safetensors"
_JSON_LIMIT = 64 << 20  # bytes; the index of DeepSeek-V3, with 91 991 entries, has 9 MB
_REF_LIMIT = 4096


@dataclass(frozen=True)
class Index:
    """What ``model.safetensors.index.json`` says.

    Attributes
    ----------
    path : Path
    weight_map : mapping of str to str
        The file of each tensor.
    metadata : mapping
        ``total_size`` and whatever else is there.
    """

    path: Path
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A checkpoint's files, by name only: none has been opened.

    Attributes
    ----------
    folder : Path
        Names of files are relative to it.
    files : tuple of str
        In order of their names.
    index : Index or None
    """

    folder: Path
    files: tuple[str, ...]
    index: Index | None = None


def locate(path: Path) -> Place:
    """Find the files of a checkpoint.

    Parameters
    ----------
    path : Path
        A file; a folder with an index, or with ``*.safetensors``; a model cache's snapshot, or its folder
        ``models--organization--name``. Links are followed.

    Raises
    ------
    CheckpointError
        Nothing there, or an index that cannot be followed.
    """
    with readable(path):
        if not path.is_dir():
            if not path.exists():
                raise CheckpointError(f"{path}: no such file or folder")
            return Place(path.parent, (path.name,))
        folder = _snapshot(path)
        if os.path.lexists(folder / INDEX_NAME):
            index = _read_index(folder / INDEX_NAME)
            return Place(folder, tuple(sorted(set(index.weight_map.values()))), index)
        files = stored_files(folder)
        if not files:
            raise CheckpointError(f"{path}: no {SUFFIX} file in this folder")
        return Place(folder, files)


def stored_files(folder: Path) -> tuple[str, ...]:
    """The ``*.safetensors`` that lie in a folder, without hidden ones, in order of their names."""
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(n for n in names if n.endswith(SUFFIX) and not n.startswith(".")))


def _snapshot(path: Path) -> Path:
    """The snapshot that a folder of a model cache (``snapshots``, ``refs``, ``blobs``) points to."""
    if not (path / "snapshots").is_dir() or os.path.lexists(path / INDEX_NAME) or stored_files(path):
        return path
    ref = path / "refs" / "main"
    if ref.is_file():
        commit = _content(ref, _REF_LIMIT).decode("ascii", "replace").strip()
        if not commit.isalnum():
            raise CheckpointError(f"{ref}: found {commit[:80]!r}, expected the name of a snapshot")
        if not (path / "snapshots" / commit).is_dir():
            raise CheckpointError(f"{ref}: names the snapshot {commit[:80]}, which is not there")
        return path / "snapshots" / commit
    snapshots = sorted(entry for entry in (path / "snapshots").iterdir() if entry.is_dir())
    if len(snapshots) != 1:
        raise CheckpointError(f"{path}: no refs/main and {len(snapshots)} snapshots; give one of them")
    return snapshots[0]


def ensure_regular(path: Path) -> None:
    """Refuse what is not a plain file: a pipe would block, a device has no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{path}: not a regular file")


def _content(path: Path, limit: int) -> bytes:
    ensure_regular(path)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointError(f"{path}: longer than {limit} bytes")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    CheckpointError
        Unreadable, too long, not JSON, nested too deeply, not an object, or with a name twice.
    """
    with readable(path):
        try:
            content = json.loads(_content(path, _JSON_LIMIT), object_pairs_hook=_once)
        except CheckpointError:
            raise
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found a JSON {type(content).__name__}, expected an object")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{shown(name)} is there twice")
        content[name] = value
    return content


def _read_index(path: Path) -> Index:
    content = read_json(path)
    weight_map, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map")
    files = set[str]()
    for name, file in weight_map.items():
        if isinstance(file, str) and (file in files or is_below(file)):
            files.add(file)
        else:
            raise CheckpointError(
                f"{path}: {shown(name)} is said to be in {shown(file)}; expected a file below this folder"
            )
    return Index(path, weight_map, metadata if isinstance(metadata, dict) else {})


def is_below(file: str) -> bool:
    """Whether a name in an index stays in its folder on every system."""
    parts = PurePosixPath(file).parts
    odd = not file.isprintable() or "\\" in file or ":" in file
    return not odd and not file.startswith("/") and ".." not in parts and file.endswith(SUFFIX)


def shown(name: object) -> str:
    """A name out of a file, for a message: quoted, escaped, and cut where it is absurdly long."""
    text = repr(name)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-20:]} ({len(text)} characters)"
