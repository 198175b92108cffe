"""Open checkpoints: every dtype, every kind of place, weights with their scales, and files that change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import dsv3_numerics as dn
from dsv3_numerics import checkpoint
from dsv3_numerics.checkpoint import CheckpointError, dequantize, reader
from dsv3_numerics.checkpoint.dtypes import DTYPES, SCALED, of_numpy
from stored import entry, of_arrays, raw, shards, stored

RNG = np.random.default_rng(0)
REALS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


def codes(shape: tuple[int, ...], dtype: Any = E4M3) -> np.ndarray:
    """FP8 codes of every kind but NaN and infinity."""
    top = 0x7B if dtype == ml_dtypes.float8_e5m2 else 0x7E
    magnitudes = RNG.integers(0, top, shape, dtype=np.uint8, endpoint=True)
    return (
        np.where(magnitudes, magnitudes | RNG.choice(np.uint8([0, 128]), shape), 0).astype("u1").view(dtype)
    )


def scales(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.random(shape, np.float32) + np.float32(0.5)


def same(x: np.ndarray, y: np.ndarray) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def one_file(folder: Path, arrays: dict[str, np.ndarray], config: Any = None) -> Path:
    (folder / "model.safetensors").write_bytes(of_arrays(arrays))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- Dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_a_view_of_the_file(tmp_path: Path, name: str) -> None:
    row, shape = DTYPES[name], (3, 8)
    data = bytes(RNG.integers(0, 2, row.nbytes(shape), dtype=np.uint8))
    # An odd byte in front: files need not align their tensors.
    path = tmp_path / "m.safetensors"
    path.write_bytes(stored({"odd": ("U8", [1], b"x"), "t": (name, list(shape), data)}))
    with checkpoint.open(path) as ckpt:
        array, info = ckpt["t"], ckpt.info("t")
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (row.stored, row.stored_shape(shape))
        assert array.tobytes() == data
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert (info.dtype, info.shape, info.nbytes, info.size) == (name, shape, len(data), 24)
        assert info.packed == row.packed == (row.bits < 8)
        copy = ckpt.read("t")
        assert same(copy, array)
        assert copy.flags.writeable


def test_the_table_has_every_dtype_of_the_format(tmp_path: Path) -> None:
    """The reader names those that it knows when it meets another."""
    (tmp_path / "m.safetensors").write_bytes(raw({"w": entry([2], 0, 8, "F99")}, bytes(8)))
    with pytest.raises(CheckpointError, match="unknown variant `F99`") as error:
        checkpoint.open(tmp_path)
    known = str(error.value).split("expected one of ")[1].split(" at line")[0]
    assert {name.strip("` ") for name in known.split(",")} == set(DTYPES)


@pytest.mark.parametrize("name", [name for name, row in DTYPES.items() if not row.packed])
def test_what_the_safetensors_package_writes_opens(tmp_path: Path, name: str) -> None:
    """Its own reader cannot load half of these."""
    row = DTYPES[name]
    x = RNG.integers(0, 2, row.nbytes((5, 4)), dtype=np.uint8).view(row.element).reshape(5, 4)
    save_file({"x": x, "y": np.zeros((0, 3), np.float32)}, tmp_path / "m.safetensors", {"format": "pt"})
    with checkpoint.open(tmp_path) as ckpt:
        assert same(ckpt["x"], x)
        assert ckpt["y"].shape == (0, 3)
        assert ckpt.metadata() == {"format": "pt"}
        assert of_numpy(x.dtype) == ckpt.info("x").row


def test_packed_elements_are_bytes_that_unpack(tmp_path: Path) -> None:
    x = dn.encode(np.float32([[0.5, 1, 1.5, 6], [-2, 3, 0, -4]]), "float4_e2m1fn")
    content = {"x": ("F4", [2, 4], dn.pack(x).tobytes()), "odd": ("F4", [2, 1], b"\x21")}
    (tmp_path / "m.safetensors").write_bytes(stored(content))
    with checkpoint.open(tmp_path) as ckpt:
        assert ckpt.info("x").packed
        assert same(dn.unpack(ckpt["x"], fmt="float4_e2m1fn"), x)
        assert ckpt["odd"].shape == (1,), "rows of half a byte"
        with pytest.raises(CheckpointError, match="looks like packed codes"):
            ckpt.dequantized("x")


# --- Places -------------------------------------------------------------------------------------------------

SHARDS = {
    "a.safetensors": {"b": np.float32([1, 2]), "a": np.float16([3])},
    "more/b.safetensors": {"c": np.arange(4)},
}


def a_file(path: Path) -> Path:
    (path / "m").write_bytes(of_arrays(SHARDS["a.safetensors"] | SHARDS["more/b.safetensors"]))
    return path / "m"


def a_folder_without_index(path: Path) -> Path:
    for i, arrays in enumerate(SHARDS.values()):
        (path / f"{i}.safetensors").write_bytes(of_arrays(arrays))
    (path / ".half-written.safetensors").write_bytes(b"")
    return path


def a_snapshot(path: Path) -> Path:
    """As a model cache has it: names link to blobs, out of the folder."""
    folder = shards(path / "models--o--n" / "snapshots" / "abc123", SHARDS)
    blobs = path / "models--o--n" / "blobs"
    blobs.mkdir()
    for i, file in enumerate([*SHARDS, "model.safetensors.index.json"]):
        (folder / file).rename(blobs / f"{i:064x}")
        (folder / file).symlink_to(os.path.relpath(blobs / f"{i:064x}", (folder / file).parent))
    return folder


def a_cache(path: Path) -> Path:
    folder = a_snapshot(path).parent.parent
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123\n")
    (folder / "snapshots" / "0ther").mkdir()
    return folder


def a_cache_without_refs(path: Path) -> Path:
    return a_snapshot(path).parent.parent


def an_index(path: Path) -> Path:
    return shards(path, SHARDS)


@pytest.mark.parametrize(
    "place", [a_file, a_folder_without_index, an_index, a_snapshot, a_cache, a_cache_without_refs]
)
@pytest.mark.parametrize("text", [str, Path])
def test_every_kind_of_place(tmp_path: Path, place: Callable[[Path], Path], text: Any) -> None:
    with checkpoint.open(text(place(tmp_path))) as ckpt:
        assert list(ckpt) == ["b", "a", "c"], "in the order of the files and of their data"
        assert [info.name for info in ckpt.infos()] == list(ckpt)
        assert {name: x.tolist() for name, x in ckpt.items()} == {"a": [3], "b": [1, 2], "c": [0, 1, 2, 3]}
        assert all((ckpt.folder / file).is_file() for file in ckpt.files)
        assert ckpt.config is None


def test_what_the_index_does_not_list_is_no_part_of_it(tmp_path: Path) -> None:
    shards(tmp_path, SHARDS)
    (tmp_path / "a.safetensors").write_bytes(of_arrays(SHARDS["a.safetensors"] | {"more": np.ones(1)}))
    with checkpoint.open(tmp_path) as ckpt:
        assert "more" not in ckpt
        assert [(info.name, info.file) for info in ckpt.unlisted] == [("more", "a.safetensors")]


def test_it_is_a_mapping(tmp_path: Path) -> None:
    ckpt = checkpoint.open(shards(tmp_path, SHARDS))
    assert len(ckpt) == 3
    assert "a" in ckpt
    assert "d" not in ckpt
    assert ckpt.get("d") is None
    assert ckpt == ckpt
    assert ckpt != checkpoint.open(tmp_path)
    assert "3 tensors, 2 files" in repr(ckpt)
    for call in (ckpt.__getitem__, ckpt.info, ckpt.read, ckpt.quantized, ckpt.dequantized):
        with pytest.raises(KeyError, match="no tensor 'd'"):
            call("d")
    with pytest.raises(KeyError, match="no file 'z'"):
        ckpt.metadata("z")


def test_a_file_is_mapped_when_it_is_needed_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, mmap = [], reader.mmap.mmap

    def counted(*args: Any, **options: Any) -> Any:
        mapped.append(args)
        return mmap(*args, **options)

    monkeypatch.setattr(reader.mmap, "mmap", counted)
    with checkpoint.open(shards(tmp_path, SHARDS)) as ckpt:
        assert not mapped
        assert ckpt["a"].base is not None
        assert np.shares_memory(ckpt["a"], ckpt["a"])
        assert len(mapped) == 1


def test_arrays_outlive_the_checkpoint(tmp_path: Path) -> None:
    with checkpoint.open(shards(tmp_path, SHARDS)) as ckpt:
        array = ckpt["b"]
    assert array.tolist() == [1, 2]
    for call in (ckpt.__getitem__, ckpt.read, ckpt.dequantized):
        with pytest.raises(CheckpointError, match="closed"):
            call("b")
    ckpt.close()


# --- Weights and scales -------------------------------------------------------------------------------------


def product(x: np.ndarray, inverse: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The definition: one float32 multiplication for each element."""
    wide = inverse.astype(np.float32).repeat(block[0], -2).repeat(block[1], -1)
    return x.astype(np.float32) * wide[..., : x.shape[-2], : x.shape[-1]]


POWERS = dn.encode(np.float32([[0.5, 2, 2**-20], [1, 4, 8]]), "float8_e8m0fnu")
WEIGHTS = {
    "ragged": (codes((200, 300)), scales((2, 3)), None),
    "bfloat16 scales": (codes((200, 300)), scales((2, 3)).astype(ml_dtypes.bfloat16), None),
    "ue8m0 scales": (codes((200, 300)), POWERS, None),
    "e5m2": (codes((129, 1), ml_dtypes.float8_e5m2), scales((2, 1)), None),
    "fnuz": (codes((5, 257), ml_dtypes.float8_e4m3fnuz), scales((1, 3)), None),
    "small blocks": (codes((50, 70)), scales((2, 5)), [32, 16]),
    "a stack": (codes((3, 130, 140)), scales((3, 2, 2)), None),
    "empty": (codes((0, 140)), scales((0, 2)), None),
    "zero scales": (codes((10, 10)), np.zeros((1, 1), np.float32), None),
}


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_is_joined_with_its_scales_across_files(tmp_path: Path, kind: str, dtype: Any) -> None:
    x, inverse, block = WEIGHTS[kind]
    config = {"quantization_config": {"weight_block_size": block} if block else {"quant_method": "fp8"}}
    files = {"1.safetensors": {"x.weight_scale_inv": inverse}, "2.safetensors": {"x.weight": x}}
    with checkpoint.open(shards(tmp_path, files, config)) as ckpt, np.errstate(over="ignore"):
        expected = product(x, inverse, ckpt.block).astype(dtype)
        q = ckpt.quantized("x.weight")
        assert same(q.codes, x)
        assert not q.codes.flags.owndata
        assert q.block == tuple(block or (128, 128))
        assert q.scale_kind == ("ue8m0" if kind == "ue8m0 scales" else "float32")
        assert same(q.dequantize(dtype), expected)
        assert same(ckpt.dequantized("x.weight", dtype), expected)


@pytest.mark.parametrize("piece", [1, 5000, 20_000])
def test_pieces_do_not_show(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x": codes((3, 400, 50)), "x_scale_inv": scales((3, 4, 1)), "y": RNG.random((123, 7))}
    with checkpoint.open(one_file(tmp_path, arrays)) as ckpt:
        before = {name: ckpt.dequantized(name) for name in "xy"}
        monkeypatch.setattr(dequantize, "_PIECE", max(piece, 8))
        for name in "xy":
            assert same(ckpt.dequantized(name), before[name])


def test_out_is_written_to(tmp_path: Path) -> None:
    arrays = {"x": codes((200, 30)), "x_scale_inv": scales((2, 1)), "y": RNG.random((200, 30))}
    with checkpoint.open(one_file(tmp_path, arrays)) as ckpt:
        for name in "xy":
            expected = ckpt.dequantized(name)
            for out in (np.empty((200, 30), np.float32), np.empty((200, 60), np.float32)[:, ::2]):
                assert ckpt.dequantized(name, out=out) is out
                assert np.array_equal(out, expected)
            with pytest.raises(TypeError, match="out: found dtype"):
                ckpt.dequantized(name, out=np.empty((200, 30)))
            with pytest.raises(ValueError, match="out: found shape"):
                ckpt.dequantized(name, out=np.empty((30, 200), np.float32))
            with pytest.raises(TypeError, match="dtype: found int32"):
                ckpt.dequantized(name, np.int32)
        out = np.empty((200, 30))
        assert ckpt.read("y", out) is out
        assert same(out, arrays["y"])
        with pytest.raises(ValueError, match="C-contiguous"):
            ckpt.read("y", np.empty((200, 60))[:, ::2])


NUMBERS = np.array(
    [0.0, -0.0, 1.1, -3.3e38, 1e39, 1e-41, 65520, 1 + 2**-8, 1 + 2**-8 + 2**-40, np.inf, np.nan]
)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("target", REALS)
@pytest.mark.parametrize("source", [*REALS, np.int64, np.uint8, np.bool_, ml_dtypes.float8_e8m0fnu])
def test_other_tensors_are_cast_and_rounded_once(tmp_path: Path, source: Any, target: Any) -> None:
    """Against exact arithmetic: float64 holds every input, and its way to the target is one rounding."""
    whole = np.dtype(source).kind in "iub" or source is ml_dtypes.float8_e8m0fnu
    x = np.array([0, 1, 3, 200]).astype(source) if whole else NUMBERS.astype(source)
    with checkpoint.open(one_file(tmp_path, {"x": x})) as ckpt:
        got = ckpt.dequantized("x", target)
    wide = x.astype(np.float64)
    if target is ml_dtypes.bfloat16:  # ml_dtypes rounds float64 twice
        expected = dn.reference.encode(wide, "bfloat16", overflow="nonfinite").view(target)
    else:
        expected = wide.astype(target)
    assert got.dtype == expected.dtype
    assert np.array_equal(got.astype(np.float64), expected.astype(np.float64), equal_nan=True)


BAD_SCALES: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "missing": ({}, "without scales, expected 'x_scale_inv'"),
    "transposed": (
        {"x_scale_inv": scales((3, 2))},
        r"found shape \[3, 2\], expected \[2, 3\] .* in blocks of",
    ),
    "of another block": ({"x_scale_inv": scales((4, 5))}, r"expected \[2, 3\]"),
    "float64": ({"x_scale_inv": np.ones((2, 3))}, "found F64, expected F32 or BF16 or F16 or F8_E8M0"),
    "nan": ({"x_scale_inv": np.float32([[1, 1, 1], [1, np.nan, 1]])}, r"found nan at \[1, 1\]"),
    "inf": ({"x_scale_inv": np.float32([[1, 1, np.inf], [1, 1, 1]])}, r"found inf at \[0, 2\]"),
    "negative": ({"x_scale_inv": np.float32([[-1, 1, 1], [1, 1, 1]])}, r"found -1.0 at \[0, 0\]"),
    "ue8m0 nan": ({"x_scale_inv": np.full((2, 3), 255, np.uint8).view(POWERS.dtype)}, "found nan"),
}


@pytest.mark.parametrize("kind", BAD_SCALES)
def test_scales_that_cannot_be(tmp_path: Path, kind: str) -> None:
    more, message = BAD_SCALES[kind]
    with checkpoint.open(one_file(tmp_path, {"x": codes((200, 300))} | more)) as ckpt:
        for call in (ckpt.quantized, ckpt.dequantized):
            with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
                call("x")


def test_what_is_not_quantized_says_so(tmp_path: Path) -> None:
    arrays = {
        "x": np.ones((2, 2)),
        "x_scale_inv": scales((1, 1)),
        "y": np.ones(2),
        "z": np.ones(2, np.complex64),
    }
    with checkpoint.open(one_file(tmp_path, arrays)) as ckpt:
        for call in (ckpt.quantized, ckpt.dequantized):
            with pytest.raises(CheckpointError, match="'x' has scales, but is F64; expected F8_E4M3"):
                call("x")
        with pytest.raises(CheckpointError, match="'y': not a quantized weight: F64"):
            ckpt.quantized("y")
        with pytest.raises(CheckpointError, match="C64 has no cast"):
            ckpt.dequantized("z")
    assert {row.element for name, row in DTYPES.items() if name in SCALED} == {
        info.dtype for info in map(dn.format_info, ("float8_e4m3fn", "float8_e5m2"))
    } | {np.dtype(ml_dtypes.float8_e4m3fnuz), np.dtype(ml_dtypes.float8_e5m2fnuz)}


# --- The configuration --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "block", "kind"),
    [
        ({}, (128, 128), None),
        ({"quantization_config": None}, (128, 128), None),
        ({"quantization_config": {"weight_block_size": [64, 32], "scale_fmt": "ue8m0"}}, (64, 32), "ue8m0"),
    ],
)
def test_block_and_scale_format_come_from_the_configuration(
    tmp_path: Path, section: Any, block: tuple[int, int], kind: str | None
) -> None:
    with checkpoint.open(one_file(tmp_path, {"x": np.ones(1)}, section)) as ckpt:
        assert (ckpt.config, ckpt.block, ckpt.scale_fmt) == (section, block, kind)


@pytest.mark.parametrize(
    "section",
    [
        7,
        {"weight_block_size": 128},
        {"weight_block_size": [128]},
        {"weight_block_size": [128, 0]},
        {"weight_block_size": [128, -128]},
        {"weight_block_size": [128, 128.0]},
        {"weight_block_size": [True, 128]},
        {"weight_block_size": [128, 128], "scale_fmt": "ue9m0"},
    ],
    ids=str,
)
def test_configurations_that_cannot_be(tmp_path: Path, section: Any) -> None:
    with (
        checkpoint.open(one_file(tmp_path, {"x": np.ones(1)}, {"quantization_config": section})) as ckpt,
        pytest.raises(CheckpointError, match=r"config\.json: .*found .*, expected"),
    ):
        print(ckpt.block, ckpt.scale_fmt)


# --- Files that change --------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def rewritten(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def removed(path: Path) -> None:
    path.unlink()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.skipif(os.name == "nt", reason="mapped files cannot be changed there")
@pytest.mark.parametrize("mapped", [False, True], ids=["before it is mapped", "while it is mapped"])
@pytest.mark.parametrize("change", [truncated, replaced, rewritten, removed, a_pipe])
def test_a_file_that_changed_is_refused(tmp_path: Path, change: Callable[[Path], None], mapped: bool) -> None:
    arrays = {"x": codes((200, 300)), "x_scale_inv": scales((2, 3)), "y": np.ones(5)}
    with checkpoint.open(one_file(tmp_path, arrays)) as ckpt:
        assert not mapped or ckpt["x"].size
        change(tmp_path / "model.safetensors")
        for call in (ckpt.__getitem__, ckpt.read, ckpt.quantized, ckpt.dequantized):
            with pytest.raises(CheckpointError, match=r"model\.safetensors: (changed|no such file)"):
                call("x")


def test_a_file_that_shrinks_during_a_read_is_an_error(tmp_path: Path) -> None:
    """Plain reads meet the end of the file; a mapping would end the process."""
    with checkpoint.open(one_file(tmp_path, {"x": np.ones((100, 100))})) as ckpt:
        out = np.empty((100, 100))
        with ckpt.reader("model.safetensors") as read:
            truncated(tmp_path / "model.safetensors")
            with pytest.raises(CheckpointError, match=r"model\.safetensors: ends too early, \d+ bytes are"):
                read(ckpt.info("x").begin, out)


def test_opening_it_again_helps(tmp_path: Path) -> None:
    one_file(tmp_path, {"x": np.ones(3)})
    with checkpoint.open(tmp_path) as ckpt:
        rewritten(tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="open it again"):
            ckpt["x"]
    with checkpoint.open(tmp_path) as ckpt:
        assert ckpt["x"].tolist() == [1, 1, 1]
