"""LogFMT given what it cannot take: errors that name the argument; damaged files are never numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from samples import SOURCES, raw, tensor

f32 = np.float32
X = np.full((4, 512), 0.5, f32)
WRONG_KINDS: dict[str, Any] = {
    "int64": np.ones((2, 2), np.int64),
    "list of int": [[1, 2], [3, 4]],
    "uint8": np.ones((2, 2), np.uint8),
    "bool": np.ones((2, 2), bool),
    "complex": np.ones((2, 2), np.complex64),
    "object": np.ones((2, 2), object),
    "strings": np.array([["1.0"]]),
    "None": None,
    "long double": np.ones((2, 2), np.longdouble),
    "codes": np.ones((2, 2), ml_dtypes.float8_e4m3fn),
    "masked": np.ma.masked_array(np.ones((2, 2), f32), True),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_wrong_kinds_of_numbers(kind: str) -> None:
    with pytest.raises(TypeError, match=r"^x: found .*, expected"):
        dn.logfmt_encode(WRONG_KINDS[kind])


def test_ragged_lists_and_numbers_without_an_axis() -> None:
    with pytest.raises(ValueError, match=r"^x: found no array"):
        dn.logfmt_encode([[1.0, 2.0], [3.0]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^x: found no axis"):
        dn.logfmt_encode(f32(1))
    with pytest.raises(ValueError, match=r"^codes: found no axis"):
        dn.logfmt_pack(np.uint8(1), bits=8)
    with pytest.raises(ValueError, match=r"^packed: found no axis"):
        dn.logfmt_unpack(np.uint8(1), bits=8, size=1)


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"bits": 2}, ValueError, "bits: found 2, expected 3 to 16 .*no step"),
    ({"bits": 17}, ValueError, "bits: found 17, expected 3 to 16"),
    ({"bits": 0}, ValueError, "bits: found 0"),
    ({"bits": -8}, ValueError, "bits: found -8"),
    ({"bits": 2**70}, ValueError, "bits: found"),
    ({"bits": 8.0}, TypeError, "bits: found 8.0"),
    ({"bits": True}, TypeError, "bits: found True"),
    ({"bits": "8"}, TypeError, "bits: found '8'"),
    ({"tile": 0}, ValueError, "tile: found 0"),
    ({"tile": -128}, ValueError, "tile: found -128"),
    ({"tile": 128.0}, TypeError, "tile: found 128.0"),
    ({"tile": True}, TypeError, "tile: found True"),
    ({"axis": 1.0}, TypeError, "axis: found 1.0"),
    ({"axis": None}, TypeError, "axis: found None"),
    ({"axis": 2}, np.exceptions.AxisError, "2"),
    ({"axis": -3}, np.exceptions.AxisError, "-3"),
    ({"mode": "DeepEP"}, ValueError, "mode: found 'DeepEP', expected one of paper, deepep"),
    (
        {"rounding": "nearest"},
        ValueError,
        "rounding: found 'nearest', expected one of linear, log, stochastic",
    ),
    ({"nonfinite": "propagate"}, ValueError, "nonfinite: found 'propagate', expected one of raise, escape"),
    ({"nonfinite": "ignore"}, ValueError, "nonfinite: found 'ignore', which only mode='deepep' has"),
    ({"seed": -1}, ValueError, "seed: found -1"),
    ({"seed": 2**64}, ValueError, "seed: found"),
    ({"seed": 1.5}, TypeError, "seed: found 1.5"),
    ({"mode": "deepep", "tile": 64}, ValueError, "tile: found 64, expected 128 in mode='deepep'"),
    ({"mode": "deepep", "axis": 0}, ValueError, "x: found 4 along the axis, expected a multiple of 512"),
    ({"mode": []}, ValueError, "mode: found"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dn.logfmt_encode(X, **options)


def test_huge_tiles_are_the_whole_axis() -> None:
    x = tensor((4, 512))
    wide, whole = dn.logfmt_encode(x, tile=2**70), dn.logfmt_encode(x, tile=None)
    np.testing.assert_array_equal(wide.codes, whole.codes)
    np.testing.assert_array_equal(raw(wide.dequantize()), raw(whole.dequantize()))
    assert wide.amin.shape == (4, 1)


@pytest.mark.parametrize("mode", ["paper", "deepep"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 700, 2047])
def test_nonfinite_numbers_raise_by_name(place: int, value: float, mode: Any, simd_level: str) -> None:
    for source in SOURCES.values():
        x = X.astype(source)
        x.reshape(-1)[place] = value
        at = rf"\({place // 512}, {place % 512}\)"
        with pytest.raises(ValueError, match=rf"^x: found {value} at {at}, expected finite"):
            dn.logfmt_encode(x, mode=mode)
        turned = np.ascontiguousarray(x.T)
        with pytest.raises(ValueError, match=rf"\({place % 512}, {place // 512}\)"):
            dn.logfmt_encode(turned, mode=mode, axis=0)


def test_beyond_float32_and_beyond_bfloat16_is_infinite() -> None:
    with pytest.raises(ValueError, match=r"found 1e\+300 at \(1,\)"):
        dn.logfmt_encode(np.array([1.0, 1e300]))
    x = X.copy()
    x[0, 0] = 3.4028235e38  # rounds up to infinity in bfloat16
    assert dn.logfmt_encode(x).escaped is None
    with pytest.raises(ValueError, match=r"found inf at \(0, 0\)"):
        dn.logfmt_encode(x, mode="deepep")
    q = dn.logfmt_encode(x, mode="deepep", nonfinite="escape")
    assert q.dequantize()[0, 0] == np.inf


def test_everything_escapes() -> None:
    for shape in ((3, 300), (1, 1)):
        x = np.full(shape, np.nan, f32)
        q = dn.logfmt_encode(x, nonfinite="escape")
        assert q.escaped is not None
        assert q.escaped.all()
        assert q.bits_per_element == 16
        assert np.isnan(q.dequantize()).all()


def _out(shape: Any = (4, 512), tiles: Any = (4, 4)) -> list[Any]:
    return [np.empty(shape, np.uint8), np.empty(tiles, f32), np.empty(tiles, f32)]


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


BAD_OUT: list[tuple[int, Any, type[Exception], str]] = [
    (0, [1], TypeError, r"out\[0\]: found list"),
    (0, np.empty((4, 512), np.uint16), TypeError, r"out\[0\]: found dtype"),
    (0, np.empty((512, 4), np.uint8), ValueError, r"out\[0\]: found shape"),
    (0, np.ma.masked_array(np.empty((4, 512), np.uint8)), TypeError, "MaskedArray"),
    (0, _read_only(np.empty((4, 512), np.uint8)), ValueError, "read-only"),
    (1, np.empty((4, 4)), TypeError, r"out\[1\]: found dtype"),
    (1, np.empty((4, 4), ">f4"), TypeError, r"out\[1\]: found dtype"),
    (2, np.empty((4, 3), f32), ValueError, r"out\[2\]: found shape"),
    (2, _read_only(np.empty((4, 4), f32)), ValueError, r"out\[2\]: found a read-only"),
]


@pytest.mark.parametrize(("index", "array", "error", "message"), BAD_OUT)
def test_bad_out(index: int, array: Any, error: type[Exception], message: str) -> None:
    out = _out()
    out[index] = array
    with pytest.raises(error, match=message):
        dn.logfmt_encode(X, out=tuple(out))  # type: ignore[arg-type]


def test_out_of_another_make() -> None:
    for wrong in (_out(), tuple(_out()[:2]), np.empty(3), dn.logfmt_encode(X)):
        with pytest.raises(TypeError, match=r"^out: found .*, expected a tuple of three"):
            dn.logfmt_encode(X, out=wrong)  # type: ignore[arg-type]
    out = _out()
    with pytest.raises(ValueError, match="same memory"):
        dn.logfmt_encode(X, out=(out[0], out[1], out[1]))
    memory = np.empty(4096, np.uint8)
    with pytest.raises(ValueError, match="same memory"):
        dn.logfmt_encode(
            X, out=(memory[:2048].reshape(4, 512), memory[2044:2108].view(f32).reshape(4, 4), None)
        )


def test_bad_decoding() -> None:
    q = dn.logfmt_encode(X)
    with pytest.raises(TypeError, match="q: found ndarray, expected a LogFmt"):
        dn.logfmt_decode(X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype: found int32"):
        dn.logfmt_decode(q, dtype=np.int32)
    with pytest.raises(ValueError, match="precision: found 'fast', expected one of exact, quick"):
        dn.logfmt_decode(q, precision="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out: found a read-only"):
        dn.logfmt_decode(q, out=_read_only(np.empty((4, 512), f32)))
    with pytest.raises(TypeError, match="out: found dtype"):
        dn.logfmt_decode(q, out=np.empty((4, 512)))
    with pytest.raises(ValueError, match="out: found shape"):
        dn.logfmt_decode(q, out=np.empty((4, 511), f32))


def test_bad_packing() -> None:
    codes = np.zeros((2, 20), np.uint8)
    for bits, error in ((2, ValueError), (17, ValueError), (8.0, TypeError)):
        with pytest.raises(error, match="bits: found"):
            dn.logfmt_pack(codes, bits=bits)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="codes: found dtype uint8, expected uint16 for 10 bits"):
        dn.logfmt_pack(codes, bits=10)
    with pytest.raises(TypeError, match="codes: found dtype int64"):
        dn.logfmt_pack([1, 2], bits=8)
    with pytest.raises(ValueError, match="layout: found 'packed', expected one of plain, deepep"):
        dn.logfmt_pack(codes, bits=8, layout="packed")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="packed: found dtype uint16"):
        dn.logfmt_unpack(codes.astype(np.uint16), bits=8, size=20)
    for size in (19, 21, -1, 0, 2**70):
        with pytest.raises(ValueError, match="size: found"):
            dn.logfmt_unpack(codes, bits=8, size=size)
    with pytest.raises(TypeError, match="size: found"):
        dn.logfmt_unpack(codes, bits=8, size=20.0)  # type: ignore[arg-type]


GOOD: dict[str, Any] = {
    "codes": np.zeros((2, 6), np.uint8),
    "amin": np.ones((2, 2), f32),
    "amax": np.ones((2, 2), f32),
    "bits": 8,
    "tile": 4,
    "axis": 1,
}
BAD_PARTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"codes": np.zeros((2, 6), np.uint16)}, TypeError, "codes: found uint16"),
    ({"bits": 10}, TypeError, "codes: found uint8, expected an array of uint16"),
    ({"codes": [[0]]}, TypeError, "codes: found list"),
    ({"codes": np.zeros((), np.uint8)}, ValueError, "axis: found 1"),
    ({"axis": 2}, ValueError, "axis: found 2, expected 0 to 1"),
    ({"axis": -1}, ValueError, "axis: found -1"),
    ({"tile": 0}, ValueError, "tile: found 0"),
    ({"tile": 3}, None, ""),
    ({"tile": 6}, ValueError, r"amin: found shape \(2, 2\), expected \(2, 1\)"),
    ({"amin": np.ones((2, 2))}, TypeError, "amin: found float64"),
    ({"amax": np.ones((2, 3), f32)}, ValueError, "amax: found shape"),
    ({"amin": np.full((2, 2), 2, f32)}, ValueError, "amin: found a tile"),
    ({"amin": np.zeros((2, 2), f32)}, ValueError, "amin: found a tile"),
    ({"amin": np.full((2, 2), -1, f32)}, ValueError, "amin: found a tile"),
    ({"amax": np.full((2, 2), np.inf, f32)}, ValueError, "amin: found a tile"),
    ({"amax": np.full((2, 2), np.nan, f32)}, ValueError, "amin: found a tile"),
    ({"mode": "other"}, ValueError, "mode: found"),
    ({"rounding": "other"}, ValueError, "rounding: found"),
    ({"escaped": np.zeros((2, 2), bool)}, ValueError, "escaped: found it without"),
    (
        {"escaped": np.ones((2, 2), bool), "escaped_values": np.zeros((3, 4), ml_dtypes.bfloat16)},
        ValueError,
        r"escaped_values: found shape \(3, 4\), expected \(4, 4\)",
    ),
    (
        {"escaped": np.ones((2, 2), np.uint8), "escaped_values": np.zeros((4, 4), ml_dtypes.bfloat16)},
        TypeError,
        "escaped: found uint8",
    ),
    (
        {"escaped": np.ones((2, 2), bool), "escaped_values": np.zeros((4, 4), f32)},
        TypeError,
        "escaped_values: found float32",
    ),
]


@pytest.mark.parametrize(("parts", "error", "message"), BAD_PARTS)
def test_parts_that_do_not_fit(parts: dict[str, Any], error: type[Exception] | None, message: str) -> None:
    if error is None:
        assert dn.LogFmt(**{**GOOD, **parts}).dequantize().shape == (2, 6)
        return
    with pytest.raises(error, match=message):
        dn.LogFmt(**{**GOOD, **parts})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    x = tensor((3, 40)).copy()
    x[1, 20] = np.nan
    dn.logfmt_encode(x, tile=16, nonfinite="escape").save(tmp_path / "good.npz")
    return tmp_path / "good.npz"


def _rewrite(saved: Path, member: str, array: Any) -> None:
    """The file with another array in one member, its checksum right."""
    with np.load(saved) as archive:
        members = {name: archive[name] for name in archive.files}
    members[member] = array
    np.savez(saved, **members)


LIES: list[tuple[str, Any]] = [
    ("codes", np.zeros((3, 40), np.uint16)),
    ("codes", np.zeros((3, 49), np.uint8)),
    ("codes", np.zeros((3, 40), f32)),
    ("amin", np.full((3, 3), 0x7F800000, np.uint32)),
    ("amin", np.full((3, 3), 0xBF800000, np.uint32)),
    ("amax", np.full((3, 3), 0x7FC00000, np.uint32)),
    ("amax", np.zeros((3, 3), np.uint16)),
    ("escaped", np.full((3, 3), 2, np.uint8)),
    ("escaped", np.ones((3, 3), np.uint8)),
    ("escaped", np.ones((3, 3), np.uint16)),
    ("escaped_values", np.zeros((1, 15), np.uint16)),
    ("escaped_values", np.zeros((1, 16), np.uint32)),
    ("meta", np.frombuffer(b"{}", np.uint8)),
    ("meta", np.frombuffer(b'{"magic": "dsv3_numerics.Quantized/1"}', np.uint8)),
    ("meta", np.frombuffer(b'{"magic": "dsv3_numerics.LogFmt/1", "bits": 99}', np.uint8)),
    ("more", np.zeros(1, np.uint8)),
]


@pytest.mark.parametrize(("member", "array"), LIES, ids=range(len(LIES)))
def test_lying_files(saved: Path, member: str, array: Any) -> None:
    _rewrite(saved, member, array)
    with pytest.raises(ValueError, match="expected a saved LogFmt"):
        dn.LogFmt.load(saved)


def test_other_containers_and_files_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a saved Quantized"):
        dn.Quantized.load(saved)
    dn.quantize_tiles(X).save(tmp_path / "q.npz")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("q.npz", "empty"):
        with pytest.raises(ValueError, match="expected a saved LogFmt"):
            dn.LogFmt.load(tmp_path / name)
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="compressed"):
        dn.LogFmt.load(saved)
    with pytest.raises(FileNotFoundError):
        dn.LogFmt.load(tmp_path / "none.npz")
