"""Headers of nearly the largest size: memory stays within a small multiple of them, whatever is in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv3_numerics import checkpoint

SIZE = 24 << 20  # a quarter of the largest: the bound is a ratio
FIXED = 24 << 20  # of the process, whatever the header
FACTOR = 4

OPEN = """
import sys
from dsv3_numerics import checkpoint
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
checkpoint.open(sys.argv[1]).close()
before = peak()
with checkpoint.open(sys.argv[2]) as ckpt:
    last = ckpt.info(sys.argv[3])
    print(len(ckpt), last.end)
print(peak() - before)
"""


def _many(make: Callable[[int], str]) -> Callable[[], tuple[bytes, str, int]]:
    """Tensors of one byte each, by their names."""

    def header() -> tuple[bytes, str, int]:
        parts, size, count = [], 0, 0
        while size < SIZE:
            part = f'"{make(count)}":{{"dtype":"U8","shape":[1],"data_offsets":[{count},{count + 1}]}}'
            parts.append(part)
            size += len(part) + 1
            count += 1
        return ("{" + ",".join(parts) + "}").encode(), make(count - 1), count

    return header


def _one(before: str, after: str, unit: str) -> Callable[[], tuple[bytes, str, int]]:
    """One tensor, and something long beside it."""

    def header() -> tuple[bytes, str, int]:
        entry = '"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
        return ("{" + before + unit * (SIZE // len(unit)) + after + entry + "}").encode(), "w", 1

    return header


HEADERS = {
    "short names": _many(lambda i: f"{i:x}"),
    "names of a model": _many(lambda i: f"model.layers.{i % 61}.mlp.experts.{i // 61}.up_proj.weight"),
    "metadata": _one('"__metadata__":{"k":"', '"},', "x"),
    "many metadata": _one('"__metadata__":{"k":"', '"},', "é"),
    "blanks": _one("", "", " "),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("what", HEADERS)
def test_memory_is_a_small_multiple_of_the_header(tmp_path: Path, what: str) -> None:
    text, last, count = HEADERS[what]()
    path, small = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(count))
    empty = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    small.write_bytes(len(empty).to_bytes(8, "little") + empty + b"x")
    command = [sys.executable, "-c", OPEN, str(small), str(path), last]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [int(n) for n in out[:2]] == [count, path.stat().st_size]
    assert int(out[2]) <= FACTOR * len(text) + FIXED, f"{int(out[2]) / len(text):.1f} x"


def test_tensors_beyond_those_that_are_kept_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsv3_numerics.checkpoint.scan._MOST_MADE", 3)
    entries = [f'"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(10)]
    text = ("{" + ",".join(entries) + "}").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(10)))
    with checkpoint.open(path) as ckpt:
        assert list(ckpt) == [f"t{i}" for i in range(10)]
        assert [info.name for info in ckpt.infos()] == list(ckpt)
        assert [int(ckpt[name][0]) for name in ckpt] == list(range(10))
        assert ckpt.info("t9") == ckpt.info("t9")
        assert "t9" in ckpt
        assert "t10" not in ckpt
        assert 3 not in ckpt
        assert not ckpt.weights
    assert checkpoint.inspect(path).total.tensors == 10
