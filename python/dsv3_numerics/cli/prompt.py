"""Input of a model: token ids from the command line or a file, or text through a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .._regular import read_small_text
from .options import Command

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}")
_REASON = 200  # characters of another package's message that are passed on


def prompt_options(path: str, ids: str = "Token ids") -> Callable[[Command], Command]:
    """Add ``--ids`` and ``--text`` to a verb whose model is in such a path."""

    def add(command: Command) -> Command:
        told = f"Text instead, where {path} has a tokenizer.json (byte tokens, or needs tokenizers)."
        command = click.option("--text", help=told)(command)
        told = f"{ids}, as 3,1,4, or @FILE with ids between spaces or commas."
        return click.option("--ids", metavar="IDS", help=told)(command)

    return add


class Words:
    """Text to ids and back, by the folder's tokenizer; byte tokens need no package for it.

    Attributes
    ----------
    problem : str
        What is wrong with the folder's tokenizer.json; empty: nothing. Only `encode` needs one.
    """

    def __init__(self, path: Path) -> None:
        from ..model import ByteTokenizer

        file = path / "tokenizer.json"
        self._bytes = ByteTokenizer.from_file(file) if file.is_file() else None
        self._tokenizer: Any = None
        self.problem = ""
        if self._bytes is not None:
            return
        try:
            from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            self._why = "the package tokenizers is not installed (pip install tokenizers)"
            return
        if not file.is_file():
            self._why = f"{file}: no such file"
            return
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises bare ones
            reason = (str(error).splitlines() or ["not read"])[0][:_REASON]
            self._why = f"{file}: not a tokenizer that the package tokenizers reads ({reason})"
            self.problem = self._why

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
            text = read_small_text(ids[1:])
        except OSError as error:
            raise click.BadParameter(f"{ids[1:]}: {error.strerror}", param_hint="--ids") from error
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--ids") from error
    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not _NUMBER.fullmatch(part)), None)
    if wrong is not None:
        from .._arrays import brief

        raise click.BadParameter(f"found {brief(wrong)}, expected whole numbers", param_hint="--ids")
    found = [int(part) for part in parts]
    if not found:
        raise click.BadParameter("found none, expected at least one token id", param_hint="--ids")
    if not all(-(2**63) <= i < 2**63 for i in found):
        raise click.BadParameter("found a number beyond 64 bits", param_hint="--ids")
    return found
