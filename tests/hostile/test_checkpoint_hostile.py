"""Hostile checkpoints: each ends in a CheckpointError that names the file, at once and in little memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import checkpoint, cli
from dsv3_numerics.checkpoint import CheckpointError
from stored import INDEX, entry, of_arrays, raw, shards, stored

GOOD = raw({"w": entry([2], 0, 8)}, bytes(8))
DOUBLE = json.dumps(entry([2], 0, 8))

BAD_FILES = {
    "empty": b"",
    "shorter than its length field": b"\1\2\3",
    "no header": bytes(8),
    "truncated header": GOOD[:20],
    "truncated data": GOOD[:-1],
    "more data than tensors": GOOD + b"x",
    "header length beyond the file": raw({}, length=3),
    "huge header length": raw({}, length=1 << 62),
    "header length of all ones": raw({}, length=(1 << 64) - 1),
    "not JSON": raw(b"{nonsense"),
    "not UTF-8": raw(b'{"\xff\xfe": 1}'),
    "a lone surrogate": raw(b'{"\\ud800": ' + DOUBLE.encode() + b"}", bytes(8)),
    "zero bytes": raw(bytes(100)),
    "a list": raw([1, 2]),
    "a number": raw(7),
    "text after the header": raw(b"{} {}"),
    "tensors that are no objects": raw({"w": 7}),
    "a field missing": raw({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "a field twice": raw(b'{"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "three offsets": raw({"w": entry([2], 0, 8) | {"data_offsets": [0, 4, 8]}}, bytes(8)),
    "a name twice": raw(f'{{"w":{DOUBLE},"w":{DOUBLE}}}'.encode(), bytes(8)),
    "an empty tensor twice": raw(
        b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "metadata twice": raw(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata of numbers": raw({"__metadata__": {"a": 1}}),
    "shape and bytes disagree": raw({"w": entry([3], 0, 8)}, bytes(8)),
    "shape overflows": raw({"w": entry([1 << 40, 1 << 40], 0, 8)}, bytes(8)),
    "shape overflows beside a zero": raw({"w": entry([1 << 40, 1 << 40, 0], 0, 0)}),
    "an axis of 2^63": raw({"w": entry([0, 1 << 63], 0, 0)}),
    "an axis of 2^64": raw({"w": entry([0, 1 << 64], 0, 0)}),
    "negative shape": raw({"w": entry([-2], 0, 8)}, bytes(8)),
    "fractional shape": raw(b'{"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8)),
    "more axes than an array can have": raw({"w": entry([1] * 65, 0, 4)}, bytes(4)),
    "end before begin": raw({"w": entry([2], 8, 0)}, bytes(8)),
    "beyond the file": raw({"w": entry([1 << 20], 0, 4 << 20)}, bytes(8)),
    "overlap": raw({"v": entry([2], 0, 8), "w": entry([2], 4, 12)}, bytes(12)),
    "the same bytes twice": raw({"v": entry([2], 0, 8), "w": entry([2], 0, 8)}, bytes(8)),
    "gap": raw({"v": entry([2], 0, 8), "w": entry([2], 12, 20)}, bytes(20)),
    "a gap in front": raw({"w": entry([2], 8, 16)}, bytes(16)),
    "unknown dtype": raw({"w": entry([2], 0, 8, "F99")}, bytes(8)),
    "a dtype that is a page": raw({"w": entry([2], 0, 8, "F" * 100_000)}, bytes(8)),
    "half a byte": raw({"w": entry([3], 0, 2, "F4")}, bytes(2)),
    "deep nesting": raw(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a shape of a million axes": raw(b'{"w":{"dtype":"F32","shape":[' + b"1," * 1_000_000 + b"1]}}"),
}


def refused(path: Path, message: str) -> str:
    """Return what `open` says of a path; reading it in pieces is refused in the same words."""
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.open(path)
    text = str(error.value)
    with pytest.raises(CheckpointError, match=re.escape(text)):
        checkpoint.open_source(path)
    assert len(text) < 1000
    assert text.isprintable()
    return text


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    text = refused(path, r"bad\.safetensors: .+")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "bad.safetensors"}}))
    assert refused(tmp_path, r"bad\.safetensors: .+") == text
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, len(err.splitlines())) == (1, "", 1)


ABSURD = [
    "",
    " ",
    "a" * 10_000,
    "\x1b[2J",
    "\n",
    "../../etc/passwd",
    "\U0001f980",
    "__metadata",
    "layers.9" * 99,
]


@pytest.mark.parametrize("name", ABSURD, ids=range(len(ABSURD)))
def test_absurd_names_are_names(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They open, and what is printed of them is harmless."""
    long = f"model.layers.{'9' * 5000}.{name}"
    arrays = {name: np.float32([1, 2]), long: np.zeros(2, ml_dtypes.float8_e4m3fn)}
    (tmp_path / "m.safetensors").write_bytes(of_arrays(arrays))
    with checkpoint.open(tmp_path) as ckpt:
        assert ckpt[name].tolist() == [1, 2]
        with pytest.raises(CheckpointError, match="without scales") as error:
            ckpt.dequantized(long)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1000
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (1, "")
    assert out.replace("\n", "").isprintable()
    assert len(out) < 5000


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "a/../../secret.safetensors",
        "..",
        "..\\secret.safetensors",
        "C:secret.safetensors",
        "secret.safetensors\0",
        "a\nb.safetensors",
        "\ud800.safetensors",
        "config.json",
        "",
        7,
        None,
        ["a.safetensors"],
    ],
    ids=repr,
)
def test_an_index_may_only_name_files_below_its_folder(tmp_path: Path, file: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(GOOD)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": file}}))
    refused(folder, r"index\.json: 'w' is said to be in .*; expected a file below this folder")


def test_an_index_with_a_lone_surrogate_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    (tmp_path / INDEX).write_text('{"weight_map": {"\\ud800": "a.safetensors"}}')
    refused(tmp_path, r"a\.safetensors: the index says it holds '\\ud800', which it does not")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "null",
        "7",
        "[]",
        "{}",
        '{"weight_map": ',
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": "w"}',
        '{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
        '{"weight_map": {}, "weight_map": {"w": "a.safetensors"}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"metadata": {"total_size": ' + "9" * 5000 + "}}",
        "\ufffe",
    ],
    ids=range(16),
)
def test_an_index_that_is_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    refused(tmp_path, r"index\.json: ")


def test_an_index_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b'{"weight_map": {"\xff": "a.safetensors"}}')
    refused(tmp_path, r"index\.json: not JSON")


def test_giant_files_are_not_read(tmp_path: Path) -> None:
    """Files with holes: a terabyte each, and no more than their ends on the disk."""
    (tmp_path / INDEX).write_bytes(b"{")
    os.truncate(tmp_path / INDEX, 1 << 40)
    refused(tmp_path, r"index\.json: longer than \d+ bytes")
    (tmp_path / INDEX).unlink()
    header = raw(b"{}", length=100_000_001)
    (tmp_path / "m.safetensors").write_bytes(header)
    os.truncate(tmp_path / "m.safetensors", 1 << 40)
    refused(tmp_path, r"m\.safetensors: header length: found 100000001, expected at most 100000000")
    (tmp_path / "m.safetensors").write_bytes(of_arrays({"w": np.ones(2)}))
    (tmp_path / "config.json").write_bytes(b"{")
    os.truncate(tmp_path / "config.json", 1 << 40)
    with (
        checkpoint.open(tmp_path) as ckpt,
        pytest.raises(CheckpointError, match=r"config\.json: longer than"),
    ):
        print(ckpt.config)


def test_giant_scales_are_not_read(tmp_path: Path) -> None:
    """A hole of a terabyte that calls itself scales: told, and left alone."""
    header = {"w": entry([4], 0, 4, "F8_E4M3"), "w_scale_inv": entry([1 << 38], 4, 4 + (1 << 40))}
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw(header))
    os.truncate(path, path.stat().st_size + 4 + (1 << 40))
    found = checkpoint.inspect(path, scales=True)
    assert {problem.kind for problem in found.problems} == {"scale does not fit"}
    with checkpoint.open(path) as ckpt, pytest.raises(CheckpointError, match="for a weight of"):
        ckpt.dequantized("w")


MEASURE = """
import sys
from dsv3_numerics import checkpoint
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
before = peak()
try:
    checkpoint.open(sys.argv[1])
except checkpoint.CheckpointError:
    print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    "text",
    [
        b'{"w":{"dtype":"F32","shape":[' + b"1," * 10_000_000,
        b'{"w":{"x":[' + b"0," * 10_000_000,
        b'{"w":{"x":' + b'{"a":' * 4_000_000,
        b'{"' + b"x" * 20_000_000,
        b'{"__metadata__":{' + b'"a":"",' * 2_800_000,
    ],
    ids=["axes", "unknown list", "unknown objects", "a name", "metadata"],
)
def test_a_header_takes_no_more_memory_than_its_length(tmp_path: Path, text: bytes) -> None:
    """20 MB of header: the text itself, and little beside it (a name while it is unescaped)."""
    (tmp_path / "m.safetensors").write_bytes(raw(text))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, timeout=300, check=True
    )
    assert int(done.stdout) < 4 * 20_000, "KiB"


@pytest.mark.parametrize(
    "shape", [[5, 0], [0, 5], [1 << 59, 0], [0, 1 << 59], [1 << 57, 0, 2], [1 << 30, 1 << 27, 0]]
)
def test_nothing_is_done_for_nothing(tmp_path: Path, shape: list[int]) -> None:
    """Without elements, the lengths of axes are mere numbers; a loop over them would never end."""
    inverse = [*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128)]
    content = stored({"w": ("F8_E4M3", shape, b""), "w_scale_inv": ("F32", inverse, b"")})
    (tmp_path / "m.safetensors").write_bytes(content)
    with checkpoint.open(tmp_path) as ckpt:
        for x in (ckpt["w"], ckpt.dequantized("w"), ckpt.quantized("w").dequantize()):
            assert x.shape == tuple(shape)
    assert checkpoint.inspect(tmp_path, scales=True).consistent


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_circle(path: Path) -> None:
    other = path.with_name(f"other {path.name}.link")
    path.symlink_to(other)
    other.symlink_to(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
@pytest.mark.parametrize(
    "make", [a_pipe, a_link_to_a_device, a_link_to_itself, a_circle, a_link_to_nothing, a_folder]
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe would block for ever, and a device has no end."""
    folder = tmp_path / "m"
    folder.mkdir()
    make(folder / "a.safetensors")
    refused(folder, r"a\.safetensors: ")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    refused(folder, r"names a\.safetensors, which is not there")
    (folder / INDEX).unlink()
    make(folder / INDEX)
    refused(folder, r"index\.json: ")
    good = tmp_path / "good"
    good.mkdir()
    (good / "a.safetensors").write_bytes(GOOD)
    make(good / "config.json")
    with checkpoint.open(good) as ckpt, pytest.raises(CheckpointError, match=r"config\.json: "):
        print(ckpt.config)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_folders_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "loop: no such file or folder")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "back").symlink_to(tmp_path / "m")
    weight_map = {"w": "/".join(["back"] * 100) + "/a.safetensors"}
    (tmp_path / "m" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path / "m", "which is not there|symbolic links")


@pytest.mark.parametrize(
    "ref", [b"", b"..", b"../../secret", b"/etc", b"abc/../..", b"\xff", b"abc\0", b"x" * 5000, b"none"]
)
def test_a_cache_may_only_point_to_its_snapshots(tmp_path: Path, ref: bytes) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "m.safetensors").write_bytes(GOOD)
    cache = tmp_path / "models--o--n"
    for name in ("abc", "def"):
        (cache / "snapshots" / name).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_bytes(ref)
    refused(cache, "models--o--n/refs/main: ")
    (cache / "refs" / "main").unlink()
    refused(cache, "models--o--n: no refs/main and 2 snapshots")


def test_an_index_is_held_to_its_word(tmp_path: Path) -> None:
    shards(tmp_path, {"a.safetensors": {"w": np.ones(2)}, "b.safetensors": {"v": np.ones(3)}})
    (tmp_path / "b.safetensors").write_bytes(GOOD)
    refused(tmp_path, r"b\.safetensors: the index says it holds 'v', which it does not")
    (tmp_path / "b.safetensors").unlink()
    refused(tmp_path, r"index\.json: names b\.safetensors, which is not there")


def test_files_of_one_folder_may_not_contradict_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(GOOD)
    refused(tmp_path, r"both a\.safetensors and b\.safetensors hold 'w'; give one file")


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "[" * 100_000, '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000 + "}"]
)
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(GOOD)
    (tmp_path / "config.json").write_text(text)
    with checkpoint.open(tmp_path) as ckpt:
        assert ckpt["w"].tolist() == [0, 0], "tensors need no configuration"
        for property_of in (lambda: ckpt.config, lambda: ckpt.block, lambda: ckpt.scale_fmt):
            with pytest.raises(CheckpointError, match=r"config\.json: "):
                property_of()


CONFIGS: dict[str, Any] = {
    "huge counts": {
        "num_hidden_layers": 10**18,
        "n_routed_experts": 10**18,
        "num_nextn_predict_layers": 10**18,
    },
    "many layers": {"num_hidden_layers": 1_000_000, "n_routed_experts": 1_000_000},
    "negative": {"num_hidden_layers": -5, "n_routed_experts": -1, "vocab_size": -7, "hidden_size": -1},
    "of other types": {
        "num_hidden_layers": "61",
        "n_routed_experts": [1],
        "vocab_size": {},
        "model_type": None,
    },
    "a section of numbers": {"quantization_config": 7},
    "a section of lists": {
        "quantization_config": {"fmt": [], "scale_fmt": {}, "weight_block_size": ["a", "b"]}
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_absurd_configurations_are_problems_and_no_more(tmp_path: Path, config: dict[str, Any]) -> None:
    arrays = {
        "model.layers.0.mlp.experts.3.up_proj.weight": np.zeros((2, 2), ml_dtypes.float8_e4m3fn),
        "model.embed_tokens.weight": np.ones((2, 2)),
    }
    folder = shards(tmp_path, {"a.safetensors": arrays}, {"model_type": "deepseek_v3"} | config)
    found = checkpoint.inspect(folder)
    assert not found.consistent
    assert sum(len(problem.text) for problem in found.problems) < 5000


def test_a_header_is_unicode_in_the_keys_that_are_skipped_too(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more\xff":1}}'
    (tmp_path / "m.safetensors").write_bytes(raw(text, b"\0"))
    with pytest.raises(CheckpointError, match="not UTF-8 at byte"):
        checkpoint.open(tmp_path / "m.safetensors")


KINDS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "Git LFS pointer",
    b"<!DOCTYPE html><html>not found</html>": "HTML",
    b"GGUF\x03\0\0\0" + bytes(64): "GGUF",
    b"PK\x03\x04" + bytes(64): "zip archive",
    b"\x80\x02}q\x00." + bytes(64): "pickle",
    b"": "empty",
}


@pytest.mark.parametrize("content", KINDS, ids=KINDS.values())
def test_files_of_other_kinds_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=KINDS[content]) as error:
        checkpoint.open(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/model.safetensors: ")


def test_unfinished_downloads_and_names_of_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (1, 3):
        name = f"model-0000{part}-of-00003.safetensors"
        (tmp_path / name).write_bytes(of_arrays({f"w{part}": np.ones(2)}))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is not there"):
        checkpoint.open(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="hf download deepseek-ai/DeepSeek-V3"):
        checkpoint.open("deepseek-ai/DeepSeek-V3")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="give the folder"):
        checkpoint.open(tmp_path / "config.json")


def test_an_index_of_another_name(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.safetensors").write_bytes(of_arrays({name: np.ones(2)}))
    index = source / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    for path in (source, index):
        with checkpoint.open(path) as ckpt:
            assert (list(ckpt), ckpt.index_name) == (["a"], index.name)
    checkpoint.convert(source, tmp_path / "out", to="bf16")
    with pytest.raises(ValueError, match="inside the source"):
        checkpoint.convert(index, source / "out", to="bf16")
    assert (tmp_path / "out" / index.name).exists()
    (source / "other.safetensors.index.json").write_text(index.read_text())
    with pytest.raises(CheckpointError, match="several indexes"):
        checkpoint.open(source)
