"""Input of a model: token ids from the command line or a file, or text through a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class Words:
    """Text to ids and back, by the folder's tokenizer; byte tokens need no package for it."""

    def __init__(self, path: Path) -> None:
        from ..model import ByteTokenizer

        file = path / "tokenizer.json"
        self._bytes = ByteTokenizer.from_file(file) if file.is_file() else None
        self._tokenizer: Any = None
        if self._bytes is not None:
            return
        try:
            from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            self._why = "the package tokenizers is not installed (pip install tokenizers)"
            return
        if file.is_file():
            self._tokenizer = Tokenizer.from_file(str(file))
        else:
            self._why = f"{file}: no such file"

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        if self._bytes is None and self._tokenizer is None:
            raise click.UsageError(f"--text: {self._why}; --ids needs no tokenizer")
        found: list[int] = self._bytes.encode(text) if self._bytes else self._tokenizer.encode(text).ids
        if not found:
            raise click.UsageError("--text: found no token in it")
        return found

    def decode(self, ids: list[int]) -> str | None:
        """Text of ids, where there is a tokenizer."""
        if self._bytes is not None:
            return self._bytes.decode(ids)
        return None if self._tokenizer is None else str(self._tokenizer.decode(ids))


def demo_prompt() -> str:
    """Text that the demo model was not trained on, from the first chapter's first sentence on."""
    from ..model import demo_text

    text = demo_text()
    return text[text.index("Sir Walter Elliot") :]


def parse_ids(ids: str) -> list[int]:
    """Ids from `--ids`: numbers between commas or spaces, or @FILE with such."""
    text = ids
    if ids.startswith("@"):
        try:
            text = Path(ids[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{ids[1:]}: {error}", param_hint="--ids") from error
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise click.BadParameter(f"{error}; expected whole numbers", param_hint="--ids") from error
    if not found:
        raise click.BadParameter("found none, expected at least one token id", param_hint="--ids")
    if not all(-(2**63) <= i < 2**63 for i in found):
        raise click.BadParameter("found a number beyond 64 bits", param_hint="--ids")
    return found
