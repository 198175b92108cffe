"""Checkpoints at random: what is written is what is seen, and the worst that a header can be is refused."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsv3_numerics import checkpoint
from dsv3_numerics.checkpoint import CheckpointError
from dsv3_numerics.checkpoint.dtypes import DTYPES
from dsv3_numerics.checkpoint.index import is_below
from stored import INDEX, raw, stored

# Integers at which arithmetic goes wrong, besides small ones.
EDGES = st.sampled_from([-1, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30])
INTEGERS = st.one_of(st.integers(-2, 40), EDGES)
NAMES = st.one_of(
    st.sampled_from(["w", "w_scale_inv", "v", "__metadata__", "layers.1.w"]), st.text(max_size=8)
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(list(DTYPES)),
            "shape": st.lists(INTEGERS, max_size=4),
            "data_offsets": st.tuples(INTEGERS, INTEGERS),
        }
    ),
    JSON,
)
HEADERS = st.dictionaries(NAMES, ENTRIES, max_size=4)
FIELDS = {
    "dtype": st.one_of(st.sampled_from(list(DTYPES)), JSON),
    "shape": st.one_of(st.lists(INTEGERS, max_size=4), JSON),
    "data_offsets": st.one_of(st.lists(INTEGERS, min_size=2, max_size=2), JSON),
}


@contextmanager
def a_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(call: Callable[..., Any], *args: Any) -> str | None:
    """The message of the CheckpointError that a call ends in, if it does; any other error fails the test."""
    try:
        call(*args)
    except CheckpointError as error:
        return str(error)
    return None


def sound_or_refused(path: Path) -> bool:
    """Open, or be refused with an error that names a file; what opens can be read to the last byte."""
    refusals = [refusal(way, path) for way in (checkpoint.open, checkpoint.inspect, checkpoint.open_source)]
    for text in filter(None, refusals):
        assert str(path) in text
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)
        assert len(text) < 2000
    if refusals[0] is not None:
        return False
    with checkpoint.open(path) as ckpt:
        for info in ckpt.infos():
            assert 8 < info.begin <= info.end <= (ckpt.folder / info.file).stat().st_size
            assert ckpt[info.name].nbytes == info.nbytes == ckpt.read(info.name).nbytes
            assert str(ckpt.folder) in (refusal(ckpt.dequantized, info.name) or str(ckpt.folder))
    return True


@st.composite
def tensors_at_random(draw: st.DrawFn) -> tuple[str, list[int], bytes]:
    row = DTYPES[draw(st.sampled_from(list(DTYPES)))]
    shape = [*draw(st.lists(st.integers(0, 5), max_size=3)), *[4] * row.packed]
    size = row.nbytes(tuple(shape))
    return row.name, shape, draw(st.binary(min_size=size, max_size=size))


@given(st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), tensors_at_random(), max_size=5))
def test_what_is_written_is_what_is_seen(tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(stored(tensors))
        with checkpoint.open(folder) as ckpt:
            assert set(ckpt) == set(tensors)
            for name, (dtype, shape, content) in tensors.items():
                info = ckpt.info(name)
                assert (info.dtype, list(info.shape)) == (dtype, shape)
                assert ckpt[name].tobytes() == content == ckpt.read(name).tobytes()


@settings(max_examples=300)
@given(HEADERS, st.integers(0, 64), st.one_of(st.none(), INTEGERS.filter(lambda n: 0 <= n < 2**64)))
@example({"w": {"dtype": "F32", "shape": [0, 2**63 - 1], "data_offsets": [0, 0]}}, 0, None)
@example({"w": {"dtype": "F4", "shape": [2**63 - 1, 0], "data_offsets": [0, 0]}}, 0, None)
def test_any_header_opens_or_is_refused(header: dict[str, Any], size: int, length: int | None) -> None:
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(raw(header, bytes(size), length))
        sound_or_refused(folder)


GOOD = stored(
    {
        "w": ("F8_E4M3", [3, 130], bytes(range(100)) * 3 + bytes(90)),
        "w_scale_inv": ("F32", [1, 2], np.float32([1, 2]).tobytes()),
        "v": ("BF16", [5], bytes(10)),
        "p": ("F4", [2, 2], bytes(2)),
    },
    {"format": "pt"},
)
HEAD = len(GOOD) - 390 - 8 - 10 - 2  # where the data begins


@settings(max_examples=300)
@given(st.sampled_from(["w", "w_scale_inv", "v", "p"]), st.sampled_from(list(FIELDS)), st.data())
def test_any_field_changed_opens_or_is_refused(name: str, field: str, data: st.DataObject) -> None:
    header = json.loads(GOOD[8:HEAD])
    header[name][field] = data.draw(FIELDS[field])
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(raw(header, GOOD[HEAD:]))
        sound_or_refused(folder)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, HEAD - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(GOOD)),
    st.booleans(),
)
@example([], len(GOOD), False)
def test_any_damage_opens_or_is_refused(changes: list[tuple[int, int]], end: int, cut: bool) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(content[:end] if cut else content)
        opened = sound_or_refused(folder)
    assert opened or cut or changes


PARTS = st.sampled_from(
    ["a", "b", "..", ".", "", "m.safetensors", "~", "C:", "\\", "\0", "%2e%2e", "\ud800", "\n"]
)
FILES = st.one_of(
    st.lists(PARTS, max_size=4).map("/".join), st.text(max_size=10).map(lambda s: s + ".safetensors")
)


@settings(max_examples=200)
@given(st.one_of(st.dictionaries(NAMES, st.one_of(FILES, JSON), max_size=3), JSON))
def test_any_index_stays_in_its_folder(weight_map: Any) -> None:
    with a_folder() as outside:
        folder = outside / "a" / "b"
        folder.mkdir(parents=True)
        for place in (outside, outside / "a", folder, folder.parent / "c"):
            place.mkdir(exist_ok=True)
            (place / "m.safetensors").write_bytes(GOOD)
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        if sound_or_refused(folder):
            with checkpoint.open(folder) as ckpt:
                for file in ckpt.files:
                    assert (folder / file).resolve().is_relative_to(folder.resolve())


@given(FILES)
def test_names_that_stay_below(file: str) -> None:
    """By the definition: joining the name to a folder, as text, gives a path below it."""
    if is_below(file):
        assert Path("/folder", file).parts[:2] == ("/", "folder")
        assert ".." not in Path(file).parts
        assert file.isprintable()


@given(st.one_of(JSON, st.fixed_dictionaries({"quantization_config": JSON})))
def test_any_configuration_is_a_configuration_or_refused(config: Any) -> None:
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(GOOD)
        (folder / "config.json").write_text(json.dumps(config))
        sound_or_refused(folder)
        with checkpoint.open(folder) as ckpt:
            text = refusal(lambda: ckpt.block)
            assert "config.json" in text if text else min(ckpt.block) > 0


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "model_type",
                "num_hidden_layers",
                "num_nextn_predict_layers",
                "n_routed_experts",
                "hidden_size",
                "vocab_size",
                "quantization_config",
            ]
        ),
        st.one_of(INTEGERS, st.just("deepseek_v3"), JSON),
    )
)
def test_any_configuration_is_inspected(config: dict[str, Any]) -> None:
    with a_folder() as folder:
        (folder / "m.safetensors").write_bytes(GOOD)
        (folder / "config.json").write_text(json.dumps(config))
        found = checkpoint.inspect(folder, scales=True)
        assert json.dumps(found.to_dict())
        assert {info.name for info in found.tensors} == {"w", "w_scale_inv", "v", "p"}
