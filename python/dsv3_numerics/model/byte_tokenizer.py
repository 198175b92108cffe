"""Text to ids and back for models whose tokens are bytes, with nothing installed beside this package.

Lives here: `ByteTokenizer`, read from the one kind of ``tokenizer.json`` that it understands: byte-level BPE
without merges, whose vocabulary is the 256 bytes. Any other needs the package tokenizers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from .._regular import read_small

_LARGEST = 1 << 20  # bytes of a tokenizer.json of 256 tokens; ordinary ones have megabytes


class ByteTokenizer:
    """Tokens that are single bytes of UTF-8.

    Parameters
    ----------
    ids : sequence of 256 int
        The token id of each byte; all different.

    Raises
    ------
    ValueError
        Not 256 different ids of at least 0.

    Examples
    --------
    >>> from dsv3_numerics.model import ByteTokenizer
    >>> tokenizer = ByteTokenizer(range(256))
    >>> tokenizer.encode("It is")
    [73, 116, 32, 105, 115]
    >>> tokenizer.decode([73, 116])
    'It'
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids = list(ids)
        self._bytes = {token: byte for byte, token in enumerate(self._ids)}
        if len(self._ids) != 256 or len(self._bytes) != 256 or min(self._ids) < 0:
            raise ValueError(f"ids: found {len(self._bytes)} different ones, expected 256 of at least 0")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self | None:
        """Read a ``tokenizer.json``; None where its tokens are not single bytes, or there is more to it.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        file = Path(path)
        try:
            found = json.loads(read_small(file, _LARGEST))
        except (ValueError, RecursionError):
            return None
        ids = _byte_ids(found)
        return None if ids is None else cls(ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, one for each byte of its UTF-8."""
        return [self._ids[byte] for byte in text.encode("utf-8", "surrogateescape")]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        ValueError
            An id that is no byte's.
        """
        found = list(ids)
        unknown = next((token for token in found if token not in self._bytes), None)
        if unknown is not None:
            raise ValueError(f"ids: found {unknown}, which is no byte's")
        return bytes(self._bytes[token] for token in found).decode("utf-8", "replace")


def _characters() -> list[str]:
    """Characters that byte-level tokenizers write for bytes: visible ones as they are, others from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


# Parts of a tokenizer.json: fields that must have one of these values where they are there. Splitting
# (use_regex) and dropout change nothing where there are no merges, and offsets are not asked for.
_TOP: dict[str, tuple[Any, ...]] = {
    "truncation": (None,),
    "padding": (None,),
    "added_tokens": ([], None),
    "normalizer": (None,),
    "post_processor": (None,),
}
_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "merges": ([],),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
_SPLIT: dict[str, tuple[Any, ...]] = {"type": ("ByteLevel",), "add_prefix_space": (False,)}
_NO_MATTER = {
    "top": {"version"},
    "model": {"dropout", "unk_token", "fuse_unk", "byte_fallback", "ignore_merges"},
    "split": {"trim_offsets", "use_regex"},
    "decoder": {"add_prefix_space", "trim_offsets", "use_regex"},
}


def _byte_ids(found: object) -> list[int] | None:
    """Ids of the bytes, if a ``tokenizer.json`` is of this kind in every field."""
    if not _as_expected(found, _TOP, _NO_MATTER["top"], {"model", "pre_tokenizer", "decoder"}):
        return None
    assert isinstance(found, Mapping)
    model = found["model"]
    whole = (
        _as_expected(model, _MODEL, _NO_MATTER["model"], {"vocab"})
        and _as_expected(found["pre_tokenizer"], _SPLIT, _NO_MATTER["split"], set())
        and _as_expected(found["decoder"], {"type": ("ByteLevel",)}, _NO_MATTER["decoder"], set())
        and {"type", "merges"} <= set(model)
        and set(_SPLIT) <= set(found["pre_tokenizer"])
    )
    vocabulary = model.get("vocab") if whole else None
    if not isinstance(vocabulary, Mapping) or set(vocabulary) != set(_characters()):
        return None
    ids = [vocabulary[character] for character in _characters()]
    if any(type(token) is not int or token < 0 for token in ids) or len(set(ids)) != 256:
        return None
    return ids


def _as_expected(
    part: object, expected: Mapping[str, tuple[Any, ...]], free: set[str], needed: set[str]
) -> bool:
    """Return True if a part has the needed fields, the expected ones at one of their values, and no other."""
    if not isinstance(part, Mapping) or not needed <= set(part):
        return False
    if set(part) - set(expected) - free - needed:
        return False
    return all(part[name] in values for name, values in expected.items() if name in part)
