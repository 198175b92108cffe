"""Writing safetensors: every dtype goes through, peers read it, and a failure leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dsv3_numerics import checkpoint, logfmt_encode
from dsv3_numerics._atomic import PartialFile, is_temporary
from dsv3_numerics.checkpoint.dtypes import DTYPES
from dsv3_numerics.checkpoint.write import Entry, layout

WHOLE = [row for row in DTYPES.values() if not row.packed]
RNG = np.random.default_rng(8)


def codes(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Any bits at all; for bool, its two values."""
    if dtype == np.bool_:
        return RNG.integers(0, 2, shape).astype(np.bool_)
    return RNG.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row.name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, row: object, shape: tuple[int, ...]) -> None:
    array = codes(row.element, shape)  # type: ignore[attr-defined]
    checkpoint.save(tmp_path / "x.safetensors", {"x": array}, metadata={"a": "ä"})
    with checkpoint.open(tmp_path / "x.safetensors") as ckpt:
        assert ckpt["x"].dtype == array.dtype
        assert ckpt["x"].shape == shape
        assert ckpt["x"].tobytes() == array.tobytes()
        assert ckpt.metadata() == {"a": "ä"}


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda k: k != "__metadata__"),
        st.tuples(st.sampled_from(WHOLE), st.lists(st.integers(0, 3), max_size=3)),
        max_size=8,
    )
)
def test_any_mixture_is_aligned_and_opens_in_the_safetensors_package(
    tmp_path_factory: pytest.TempPathFactory, spec: dict[str, tuple]
) -> None:
    path = tmp_path_factory.mktemp("save") / "m.safetensors"
    arrays = {name: codes(row.element, tuple(shape)) for name, (row, shape) in spec.items()}
    checkpoint.save(path, arrays)
    with safetensors.safe_open(path, "np") as peer:
        assert set(peer.keys()) == set(arrays)
        for name, array in arrays.items():
            assert peer.get_slice(name).get_shape() == list(array.shape)
    with checkpoint.open(path) as ckpt:
        assert {k: v.tobytes() for k, v in ckpt.items()} == {k: v.tobytes() for k, v in arrays.items()}
        assert all(info.begin % info.row.element.itemsize == 0 for info in ckpt.infos())


def test_the_safetensors_package_reads_the_same_numbers_and_we_read_its(tmp_path: Path) -> None:
    arrays = {"a": RNG.normal(size=(3, 4)), "b": np.arange(5), "c": np.float16([1, 2])}
    checkpoint.save(tmp_path / "ours.safetensors", arrays, metadata={"format": "np"})
    theirs = load_file(tmp_path / "ours.safetensors")
    save_file(arrays, tmp_path / "theirs.safetensors")
    with checkpoint.open(tmp_path / "theirs.safetensors") as ckpt:
        for name, array in arrays.items():
            np.testing.assert_array_equal(theirs[name], array)
            np.testing.assert_array_equal(ckpt[name], array)


def test_pytorch_reads_fp8_and_bfloat16(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    load = pytest.importorskip("safetensors.torch").load_file
    arrays = {"w": codes(np.dtype(ml_dtypes.float8_e4m3fn), (3, 4)), "b": np.ones(2, ml_dtypes.bfloat16)}
    checkpoint.save(tmp_path / "w.safetensors", arrays, metadata={"format": "pt"})
    found = load(tmp_path / "w.safetensors")
    assert (found["w"].dtype, found["b"].dtype) == (torch.float8_e4m3fn, torch.bfloat16)
    assert found["w"].view(torch.uint8).numpy().tobytes() == arrays["w"].tobytes()


def test_strided_and_foreign_byte_order_are_copied(tmp_path: Path) -> None:
    x = np.arange(12, dtype=">f4").reshape(3, 4)
    checkpoint.save(tmp_path / "x.safetensors", {"x": x, "t": x.T, "half": x[::2, 1:]})
    with checkpoint.open(tmp_path / "x.safetensors") as ckpt:
        np.testing.assert_array_equal(ckpt["x"], x)
        np.testing.assert_array_equal(ckpt["t"], x.T)
        np.testing.assert_array_equal(ckpt["half"], x[::2, 1:])


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "says"),
    [
        ({"x": np.zeros(2, ml_dtypes.float4_e2m1fn)}, None, TypeError, "packs"),
        ({"x": np.array(["a"])}, None, TypeError, "dtype"),
        ({"x": logfmt_encode(np.ones((2, 128), np.float32), bits=8)}, None, TypeError, "no dialect holds"),
        ({"x": np.ma.masked_array([1.0], [True])}, None, TypeError, "masked"),
        ({1: np.zeros(2)}, None, TypeError, "tensors: found 1"),
        ({"x": np.zeros(2)}, {"a": 1}, TypeError, "metadata: found 1"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "__metadata__"),
        ({"\ud800": np.zeros(2)}, None, ValueError, "surrogates"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, tensors: dict, metadata: dict | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        checkpoint.save(tmp_path / "x.safetensors", tensors, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_older_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"x": np.zeros(3)})
    before = path.read_bytes()

    def full(self: PartialFile) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartialFile, "sync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"x": np.ones(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == before


def test_the_header_is_padded_and_names_every_byte() -> None:
    plan = layout([Entry("b", "F8_E4M3", (3,)), Entry("a", "F64", (2,))], {"k": "v"})
    assert len(plan.header) % 8 == 0
    assert plan.begins == {"a": len(plan.header), "b": len(plan.header) + 16}
    assert plan.size == len(plan.header) + 19
    assert json.loads(plan.header[8:])["b"]["data_offsets"] == [16, 19]


def test_names_of_temporaries_are_known() -> None:
    assert is_temporary(".model.safetensors.0123456789ab.partial")
    assert not is_temporary("model.safetensors")
    assert not is_temporary(".gitattributes")
