"""Where a checkpoint's files are: a file, a folder, an index, a model cache; and its JSON files, read safely.

Lives here: what a path stands for, and which names an index may use. Files come from strangers: lengths are
bounded, names stay below their folder, and only regular files are opened. What is in the files is found out
in `scan`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .._regular import read_small
from .readers import CheckpointError, readable

INDEX_NAME = "model.safetensors.index.json"
INDEX_END = ".safetensors.index.json"
SUFFIX = ".safetensors"
_PART = re.compile(r"(?P<stem>.*)-(?P<part>[0-9]{5,})-of-(?P<of>[0-9]{5,})\.safetensors")
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_MOST_PARTS = 1 << 16
_REF_LIMIT = 4096  # bytes; a commit has 40
_JSON_LIMIT = 64 << 20  # bytes; the index of DeepSeek-V3, with 91 991 entries, has 9 MB


@dataclass(frozen=True)
class Index:
    """Content of ``model.safetensors.index.json``."""

    path: Path
    "The file."
    weight_map: Mapping[str, str]
    "The file of each tensor."
    metadata: Mapping[str, Any]
    "``total_size`` and whatever else is there."


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's files, by name only: none has been opened."""

    folder: Path
    "Names of files are relative to it."
    files: tuple[str, ...]
    "In order of their names."
    index: Index | None = None
    missing: tuple[str, ...] = ()
    "Files that the names of the others say there are."
    left_out: tuple[str, ...] = ()
    "Files of another checkpoint in the same folder."


def locate(path: Path) -> CheckpointFiles:
    """Find the files of a checkpoint.

    Parameters
    ----------
    path : Path
        A file; a folder with an index, or with ``*.safetensors``; an index; a model cache's snapshot, or its
        folder ``models--organization--name``. Links are followed.

    Raises
    ------
    CheckpointError
        Nothing there, or an index that cannot be followed.
    """
    with readable(path):
        if not path.is_dir():
            if not path.exists():
                raise CheckpointError(f"{path}: no such file or folder{_about_hub(path)}")
            if path.name.endswith(INDEX_END):
                return _by_index(path)
            if path.suffix == ".json":
                raise CheckpointError(
                    f"{path}: a JSON file, not a checkpoint; give the folder that it is in, {path.parent}"
                )
            return CheckpointFiles(path.parent, (path.name,))
        folder = _snapshot(path)
        index = _index_in(folder)
        if index is not None:
            return _by_index(folder / index)
        files = stored_files(folder)
        if not files:
            raise CheckpointError(f"{path}: no {SUFFIX} file in this folder{_about_others(folder)}")
        return _by_names(folder, files)


def _by_index(path: Path) -> CheckpointFiles:
    index = _read_index(path)
    return CheckpointFiles(path.parent, tuple(sorted(set(index.weight_map.values()))), index)


def _index_in(folder: Path) -> str | None:
    """Return the name of a folder's index: the usual one, or the only one of another name (diffusers)."""
    if os.path.lexists(folder / INDEX_NAME):
        return INDEX_NAME
    names = sorted(e.name for e in folder.iterdir() if e.name.endswith(INDEX_END) and e.name[0] != ".")
    others = [name for name in names if not name.startswith("consolidated")]
    names = others or names
    if len(names) > 1:
        raise CheckpointError(f"{folder}: several indexes ({', '.join(names[:4])}); give one of them")
    return names[0] if names else None


def _by_names(folder: Path, files: tuple[str, ...]) -> CheckpointFiles:
    """Files without an index: those of one checkpoint, and what their names say is missing."""
    own = tuple(name for name in files if not name.startswith("consolidated"))
    left_out: tuple[str, ...] = ()
    if len(own) < len(files) and any(re.match(r"model[.-]", name) for name in own):
        left_out, files = tuple(sorted(set(files) - set(own))), own
    missing = []
    for stem, parts in _parts(files).items():
        for of, found in parts.items():
            if of <= _MOST_PARTS:
                wanted = (f"{stem}-{part:05}-of-{of:05}{SUFFIX}" for part in range(1, of + 1))
                zero = 0 in found  # some count from 0
                gaps = [name for part, name in enumerate(wanted, 1) if part - zero not in found]
                missing += gaps
    return CheckpointFiles(folder, files, None, tuple(missing), left_out)


def _parts(files: tuple[str, ...]) -> dict[str, dict[int, set[int]]]:
    """Numbers in names like ``model-00001-of-00003.safetensors``, by stem and by count."""
    found: dict[str, dict[int, set[int]]] = {}
    for name in files:
        match = _PART.fullmatch(name)
        if match and len(match["of"]) < 10 and len(match["part"]) < 10:
            found.setdefault(match["stem"], {}).setdefault(int(match["of"]), set()).add(int(match["part"]))
    return found


def _about_hub(path: Path) -> str:
    if not _HUB.fullmatch(path.as_posix()):
        return ""
    return (
        "; a name on a model hub is not opened from there: download it first "
        f"(hf download {path.as_posix()} --local-dir DIR) and give DIR"
    )


def _about_others(folder: Path) -> str:
    """Say what a folder without such files has instead."""
    ends = {
        ".bin": "PyTorch files (.bin), which run code when they are loaded: save them as .safetensors first",
        ".gguf": "GGUF files, which are not read here",
        ".incomplete": "unfinished downloads (.incomplete): finish the download",
    }
    names = [entry.name for entry in folder.iterdir()]
    for end, text in ends.items():
        if any(name.endswith(end) for name in names):
            return f", but {text}"
    return ""


_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run git lfs pull",
    b"GGUF": "a GGUF file, which is not read here: give the .safetensors that it was made from",
    b"<": "an HTML or XML page, probably an error message or a login page: download the file again",
    b"PK\x03\x04": "a zip archive (PyTorch's .bin or .pt, or NumPy's .npz): save it as .safetensors first",
    b"\x80": "a Python pickle, which runs code when it is loaded: save it as .safetensors first",
    b"\x93NUMPY": "a NumPy file: give it the ending .npy",
    b"{": "a JSON file, not a checkpoint: give the folder that it is in",
}


def kind_of(path: Path) -> str | None:
    """Recognise files of other kinds by their first bytes; None for what may be safetensors."""
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    if not head:
        return "empty: download the file again" if path.stat().st_size < 8 else None
    return next((text for start, text in _KINDS.items() if head.startswith(start)), None)


def stored_files(folder: Path) -> tuple[str, ...]:
    """Return the ``*.safetensors`` that lie in a folder, without hidden ones, in order of their names."""
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(n for n in names if n.endswith(SUFFIX) and not n.startswith(".")))


def _snapshot(path: Path) -> Path:
    """Return the snapshot that a folder of a model cache (``snapshots``, ``refs``, ``blobs``) points to."""
    if not (path / "snapshots").is_dir() or _index_in(path) or stored_files(path):
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


def _content(path: Path, limit: int) -> bytes:
    with readable(path):
        return read_small(path, limit)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file.

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
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: not JSON (not UTF-8 at byte {error.start})") from error
        except RecursionError as error:
            raise CheckpointError(f"{path}: not JSON (nested too deeply)") from error
        except ValueError as error:
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
    """Tell whether a name in an index stays in its folder on every system."""
    parts = PurePosixPath(file).parts
    odd = not file.isprintable() or "\\" in file or ":" in file
    return not odd and not file.startswith("/") and ".." not in parts and file.endswith(SUFFIX)


def shown(name: object) -> str:
    """Return a name out of a file, for a message: quoted, escaped, and cut where it is absurdly long."""
    text = repr(name)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-20:]} ({len(text)} characters)"
