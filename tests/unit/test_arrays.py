"""The array edge: which arrays come in and go out, in every memory layout."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _arrays
from samples import SOURCES, raw, tensor


def _unaligned(x: NDArray[Any]) -> NDArray[Any]:
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    assert not shifted.flags.aligned
    return shifted


def _read_only(x: NDArray[Any]) -> NDArray[Any]:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


# Each gives an array equal to its argument, in another kind of memory.
VIEWS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda x: x.T.copy().T,
    "unaligned": _unaligned,
    "swapped": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": _read_only,
    "broadcast": lambda x: np.broadcast_to(x, (1, *x.shape))[0],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("source", SOURCES)
def test_input_in_every_layout(source: str, view: str) -> None:
    x = tensor((7, 33), source)
    seen = VIEWS[view](x)
    np.testing.assert_array_equal(raw(dn.encode(seen, "float8_e4m3fn")), raw(dn.encode(x, "float8_e4m3fn")))
    q, expected = dn.quantize_tiles(seen, tile=8), dn.quantize_tiles(x, tile=8)
    np.testing.assert_array_equal(raw(q.codes), raw(expected.codes))
    np.testing.assert_array_equal(raw(q.scales), raw(expected.scales))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float16", "bfloat16", "int8"])
def test_codes_in_every_layout(name: str, view: str) -> None:
    codes = dn.encode(tensor((7, 33)), name)
    if view == "swapped" and codes.itemsize == 1:
        pytest.skip("one byte has one order")
    if view == "unaligned" and codes.itemsize == 1:
        pytest.skip("one byte is always aligned")
    np.testing.assert_array_equal(dn.decode(VIEWS[view](codes)), dn.decode(codes))


def test_shapes_are_kept() -> None:
    for shape in [(), (0,), (1,), (2, 0, 3), (2, 3, 4), (1,) * 8]:
        x = np.ones(shape, np.float32)
        codes = dn.encode(x, "float8_e5m2")
        assert isinstance(codes, np.ndarray)
        assert codes.shape == shape
        numbers = dn.decode(codes)
        assert isinstance(numbers, np.ndarray)
        assert numbers.shape == shape
        np.testing.assert_array_equal(numbers, x)


def test_lists_scalars_and_subclasses() -> None:
    assert raw(dn.encode([1.0, 2.0], "float8_e4m3fn")).tolist() == [0x38, 0x40]
    assert dn.encode(1.5, "float8_e4m3fn").shape == ()
    assert dn.encode(np.float32(1.5), "e5m6") == 0b01111_100000
    assert dn.decode(ml_dtypes.float8_e4m3fn(2)).tolist() == 2.0
    mapped = dn.encode(np.ones(3, np.float32).view(np.memmap), "int8")
    assert type(mapped) is np.ndarray


class Exporter:
    """Array of another library: DLPack and nothing else."""

    def __init__(self, x: NDArray[Any], device: tuple[int, int] = (1, 0)) -> None:
        self.x, self.device = x, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_dlpack_on_the_cpu_is_read() -> None:
    x = tensor((3, 4))
    np.testing.assert_array_equal(
        raw(dn.encode(Exporter(x), "float8_e4m3fn")), raw(dn.encode(x, "float8_e4m3fn"))
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "name"), [(2, "cuda:1"), (10, "rocm:1"), (99, "DLPack device 99:1")])
def test_dlpack_elsewhere_names_the_device(kind: int, name: str) -> None:
    there: Any = Exporter(tensor((3, 4)), (kind, 1))
    for call in (
        lambda: dn.encode(there, "float8_e4m3fn"),
        lambda: dn.quantize_tiles(there),
        lambda: dn.decode(there),
    ):
        with pytest.raises(TypeError, match=name):
            call()


def test_out_is_returned_and_only_it_is_written() -> None:
    x = tensor((5, 6))
    out = np.empty((5, 6), ml_dtypes.float8_e4m3fn)
    assert dn.encode(x, "float8_e4m3fn", out=out) is out
    np.testing.assert_array_equal(raw(out), raw(dn.encode(x, "float8_e4m3fn")))
    numbers = np.empty((5, 6), np.float16)
    assert dn.decode(out, dtype=np.float16, out=numbers) is numbers
    np.testing.assert_array_equal(numbers, dn.decode(out, dtype=np.float16))


@pytest.mark.parametrize("view", ["strided", "transposed", "unaligned"])
def test_out_in_other_layouts_is_filled(view: str) -> None:
    codes = dn.encode(tensor((5, 6)), "float8_e4m3fn")
    wide = {
        "strided": np.full((5, 12), 7, np.float32)[:, ::2],
        "transposed": np.full((6, 5), 7, np.float32).T,
        "unaligned": _unaligned(np.full((5, 6), 7, np.float32)),
    }[view]
    assert dn.decode(codes, out=wide) is wide
    np.testing.assert_array_equal(wide, dn.decode(codes))
    if view == "strided":
        assert isinstance(wide.base, np.ndarray)
        assert (wide.base[:, 1::2] == 7).all()


def test_a_call_that_is_known_looks_at_its_arrays() -> None:
    x, out = tensor((64,), seed=3), np.zeros(64, np.float16)
    expected = raw(dn.encode(x, "float16", out=out)).copy()
    for _ in range(2):
        out[:] = 0
        assert dn.encode(x, "float16", out=out) is out
        np.testing.assert_array_equal(raw(out), expected)
    np.testing.assert_array_equal(raw(dn.encode(x[::2], "float16", out=out[:32])), expected[::2])
    np.testing.assert_array_equal(raw(dn.encode(x.astype(">f4"), "float16")), expected)
    np.testing.assert_array_equal(raw(dn.encode(x.reshape(8, 8).T, "float16").T).ravel(), expected)
    for wrong in (out[:63], out.reshape(8, 8), out.astype(np.float32)):
        with pytest.raises((TypeError, ValueError), match="out"):
            dn.encode(x, "float16", out=wrong)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        dn.encode(x, "float16", out=out)


def test_out_may_overlap_the_input() -> None:
    x = tensor((64,), seed=3)
    expected = dn.encode(x, "float16")
    buffer = x.copy()
    for place in (slice(0, 64), slice(64, 128), slice(1, 65), slice(17, 81)):
        buffer[:] = x
        out = buffer.view(np.float16)[place]
        assert dn.encode(buffer, "float16", out=out) is out
        np.testing.assert_array_equal(raw(out), raw(expected))
    codes = np.zeros(80, np.uint16)
    codes[:64] = raw(expected)
    out = codes[16:80].view(np.float16)
    dn.decode(codes[:64].view(np.float16), dtype=np.float16, out=out)
    np.testing.assert_array_equal(raw(out), raw(expected))


def test_quantize_out_may_overlap_the_input() -> None:
    x = tensor((4, 64))
    expected = dn.quantize_tiles(x, tile=16)
    buffer = x.copy()
    memory = buffer.view(np.uint8).reshape(-1)
    codes = memory[100 : 100 + 256].view(ml_dtypes.float8_e4m3fn).reshape(4, 64)
    scales = memory[512 : 512 + 64].view(np.float32).reshape(4, 4)
    q = dn.quantize_tiles(buffer, tile=16, out=(codes, scales))
    np.testing.assert_array_equal(raw(q.codes), raw(expected.codes))
    np.testing.assert_array_equal(raw(q.scales), raw(expected.scales))
    assert q.codes is codes


def test_contiguous_input_is_not_copied() -> None:
    for source in SOURCES:
        x = tensor((5, 6), source)
        assert np.shares_memory(_arrays.flat(_arrays.source(x, "x")[0]), x)
        assert not np.shares_memory(_arrays.flat(x[:, ::2]), x)


def test_many_python_threads_at_once() -> None:
    """The GIL is released: calls from many threads must not disturb each other."""
    inputs = [tensor((40, 300), seed=seed) for seed in range(16)]
    expected = [dn.quantize_tiles(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(dn.quantize_tiles, inputs), expected, strict=True):
                np.testing.assert_array_equal(raw(got.codes), raw(wanted.codes))
                np.testing.assert_array_equal(raw(got.scales), raw(wanted.scales))


def test_number_of_threads() -> None:
    before = dn.get_num_threads()
    dn.set_num_threads(2)
    assert dn.get_num_threads() == 2
    dn.set_num_threads(before)
    assert dn.get_num_threads() == before
