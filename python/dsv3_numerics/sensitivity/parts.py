"""The folder of an analysis that can be taken up: one file for each part of each variant that is done.

Lives here: `Kept`. The folder says what it is an analysis of; files of another model, recipe or ids are never
mixed with it. A file appears under its name only when complete.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._atomic import ensure_writable
from ..report.files import json_ready, read_json, short, write_text
from .variant import Variant

FOLDER = "parts"
ABOUT = "about.json"
VERSION = 2
"""Version of what the parts hold."""


class Kept:
    """Finished parts of a sensitivity analysis, in ``parts/`` below its folder.

    Parameters
    ----------
    folder : path
        Of the analysis; made if need be.
    about : mapping
        What the analysis is of: model, recipe, ids and so on. It is written into the folder, and what the
        folder holds must be of the same.
    restart : bool
        Whether to remove what was done, of whatever it was.

    Raises
    ------
    ValueError
        The folder holds another sensitivity analysis; the message says what differs.
    OSError
        The folder cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], *, restart: bool = False) -> None:
        self.folder = folder / FOLDER
        ensure_writable(self.folder)
        self.about = json.loads(_text(about))
        if restart:
            self._remove()
        path = self.folder / ABOUT
        strays = list(self.folder.glob("*.json"))
        if path.exists():  # looked for after the others: another process writes it before them
            self._compare(path)
        else:
            for stray in strays:  # parts that do not say what they are of
                stray.unlink(missing_ok=True)
            write_text(_text(about), path)

    def _remove(self) -> None:
        for path in self.folder.glob("*.json"):
            path.unlink()

    def _compare(self, path: Path) -> None:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(
                f"{path}: not what a sensitivity analysis wrote; --restart (restart=True) removes it"
            )
        differ = [name for name, value in self.about.items() if found.get(name) != value]
        if differ:
            told = "; ".join(f"{n} ({short(found.get(n))}, now {short(self.about[n])})" for n in differ)
            raise ValueError(
                f"{path.parent.parent}: holds a sensitivity analysis with other settings: {told}. Give "
                "another folder, or --restart (restart=True) to remove what it holds"
            )

    def load(self, variant: Variant, part: str) -> dict[str, Any] | None:
        """Return a part that is done; None if it is not, or its file was damaged."""
        found = read_json(self._path(variant, part))
        if not isinstance(found, dict) or found.get("variant") != _identity(variant):
            return None
        content = found.get("content")
        whole = isinstance(content, dict) and found.get("crc32") == _checksum(content)
        return content if whole else None

    def save(self, variant: Variant, part: str, content: Mapping[str, Any]) -> None:
        """Keep a part that is done."""
        about = {"variant": _identity(variant), "part": part, "content": content, "crc32": _checksum(content)}
        write_text(_text(about), self._path(variant, part))

    def _path(self, variant: Variant, part: str) -> Path:
        return self.folder / f"{part}-{re.sub(r'[^a-z0-9_]+', '-', variant.name.lower())}.json"


def _identity(variant: Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "recipe": json.loads(variant.recipe.to_json()),
        "absorbed": variant.absorbed,
        "perturbation": variant.perturbation,
    }


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(_text(content).encode())


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(json_ready(dict(content)), sort_keys=True, allow_nan=False) + "\n"
