"""Byte tokens: read from one kind of tokenizer.json, and from no other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics.model import ByteTokenizer, demo_checkpoint

FILE = demo_checkpoint() / "tokenizer.json"
GIVEN = json.loads(FILE.read_text(encoding="utf-8"))


def read(content: Any, folder: Path) -> ByteTokenizer | None:
    target = folder / "tokenizer.json"
    target.write_text(json.dumps(content), encoding="utf-8")
    return ByteTokenizer.from_file(target)


@given(st.text())
def test_text_comes_back(text: str) -> None:
    tokenizer = ByteTokenizer.from_file(FILE)
    assert tokenizer is not None
    ids = tokenizer.encode(text) if text.isascii() or not _surrogates(text) else []
    assert bytes(ids).decode() == (text if ids else "")
    assert tokenizer.decode(ids) == (text if ids else "")


def _surrogates(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)


def test_ids_are_those_of_the_package_tokenizers() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    theirs, ours = tokenizers.Tokenizer.from_file(str(FILE)), ByteTokenizer.from_file(FILE)
    assert ours is not None
    for text in ("It is a truth", " two  spaces\n\tand ünïcödé — 漢字 🙂", "".join(map(chr, range(1, 256)))):
        assert theirs.encode(text).ids == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)) == text


def test_other_ids_of_bytes_are_followed(tmp_path: Path) -> None:
    shifted = copy.deepcopy(GIVEN)
    shifted["model"]["vocab"] = {c: i + 3 for c, i in GIVEN["model"]["vocab"].items()}
    tokenizer = read(shifted, tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("ab") == [100, 101]
    assert tokenizer.decode([100, 101]) == "ab"
    with pytest.raises(ValueError, match="found 2, which is no byte's"):
        tokenizer.decode([2])


def _set(*path: str, to: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


# Everything that would make other ids, or might: such a file is left to the package tokenizers.
OTHERS = {
    "merges": _set("model", "merges", to=["a b"]),
    "no merges": _drop("model", "merges"),
    "kind": _set("model", "type", to="WordPiece"),
    "no kind": _drop("model", "type"),
    "suffix": _set("model", "end_of_word_suffix", to="</w>"),
    "prefix": _set("model", "continuing_subword_prefix", to="##"),
    "unknown model field": _set("model", "future", to=1),
    "more tokens": _set("model", "vocab", "<s>", to=256),
    "fewer tokens": _drop("model", "vocab", "a"),
    "an id twice": _set("model", "vocab", "a", to=98),
    "negative id": _set("model", "vocab", "a", to=-1),
    "fractional id": _set("model", "vocab", "a", to=97.0),
    "true as id": _set("model", "vocab", "a", to=True),
    "vocabulary": _set("model", "vocab", to=[]),
    "added": _set("added_tokens", to=[{"id": 0, "content": "x"}]),
    "normalizer": _set("normalizer", to={"type": "Lowercase"}),
    "processor": _set("post_processor", to={"type": "TemplateProcessing"}),
    "truncation": _set("truncation", to={"max_length": 3}),
    "padding": _set("padding", to={"length": 3}),
    "prefix space": _set("pre_tokenizer", "add_prefix_space", to=True),
    "prefix space by default": _drop("pre_tokenizer", "add_prefix_space"),
    "other split": _set("pre_tokenizer", "type", to="Whitespace"),
    "no split": _set("pre_tokenizer", to=None),
    "other decoder": _set("decoder", "type", to="Metaspace"),
    "no decoder": _drop("decoder"),
    "unknown field": _set("future", to=1),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_any_other_file_is_not_taken_for_bytes(change: Callable[[Any], None], tmp_path: Path) -> None:
    content = copy.deepcopy(GIVEN)
    assert read(content, tmp_path) is not None
    change(content)
    assert read(content, tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"x"', '{"model": 3}'])
def test_broken_files_are_not_taken_for_bytes(text: str, tmp_path: Path) -> None:
    target = tmp_path / "tokenizer.json"
    target.write_text(text)
    assert ByteTokenizer.from_file(target) is None


@pytest.mark.parametrize("ids", [range(255), [0] * 256, range(-1, 255), range(257)])
def test_ids_are_checked(ids: Any) -> None:
    with pytest.raises(ValueError, match="expected 256"):
        ByteTokenizer(ids)
