"""Conversion: bit for bit what the textbook and other implementations say, whatever the chunks and jobs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

import stored
from dsv3_numerics import cli, reference
from dsv3_numerics.checkpoint import CheckpointError, chunks, convert, open, save
from dsv3_numerics.checkpoint.conversion.families import in_recipe
from dsv3_numerics.checkpoint.conversion.plan import TARGETS
from dsv3_numerics.checkpoint.conversion.steps import powers_of_two

GOLDEN = Path(__file__).parents[1] / "golden"
FP8 = GOLDEN / "tiny_v3_fp8"
PLAIN = GOLDEN / "tiny_v3"
EXPECTED = json.loads((FP8 / "expected_dequant.sha256.json").read_text())
SCALE = "_scale_inv"
NUMPY = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
RNG = np.random.default_rng(5)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def by_textbook(x: np.ndarray, scale: str) -> tuple[bytes, bytes]:
    """Codes and float32 scales of a weight."""
    q = reference.quantize_blocks(np.asarray(x, np.float32), block=(128, 128), scale=scale)
    return q.codes.tobytes(), q.effective_scales().tobytes()


# --- Out of FP8 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["bf16", "f32"])
def test_release_format_to_numbers_as_written_down_by_others(
    tmp_path: Path, to: str, simd_level: str
) -> None:
    report = convert(FP8, tmp_path / "out", to=to, verify=True)
    assert dict(report.tensors) == {"dequantized": len(EXPECTED), "copied": 25}
    with open(FP8) as before, open(tmp_path / "out") as after:
        assert set(after) == {name for name in before if not name.endswith(SCALE)}
        found = {name: hashlib.sha256(after[name].tobytes()).hexdigest() for name in EXPECTED}
        assert found == {name: digests[to] for name, digests in EXPECTED.items()}
        for name in set(after) - set(EXPECTED):
            assert after[name].tobytes() == before[name].tobytes()
            assert after.info(name).dtype == before.info(name).dtype
            assert after.info(name).file == before.info(name).file


@pytest.mark.parametrize("to", NUMPY)
def test_index_configuration_and_other_files(tmp_path: Path, to: str) -> None:
    source = tmp_path / "src"
    shutil.copytree(FP8, source)
    (source / "inference").mkdir()
    for name in ("README.md", ".gitattributes", "inference/model.py"):
        (source / name).write_text(name)
    (source / "old.safetensors").write_bytes(b"not of the index")
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_text("ref")
    convert(source, tmp_path / "out", to=to)
    out = contents(tmp_path / "out")
    assert set(out) == set(contents(source)) - {"old.safetensors", ".git/HEAD"}
    for name in ("README.md", ".gitattributes", "inference/model.py", "golden.npz"):
        assert out[name] == (source / name).read_bytes()
    index = json.loads(out[stored.INDEX])
    with open(tmp_path / "out") as after:
        assert index["weight_map"] == {name: after.info(name).file for name in after}
        assert index["metadata"]["total_size"] == sum(info.nbytes for info in after.infos())
    before = json.loads((source / "config.json").read_text())
    assert before.pop("quantization_config")
    assert json.loads(out["config.json"]) == {**before, "torch_dtype": np.dtype(NUMPY[to]).name}


def test_float16_is_rounded_once_more_and_never_infinite(tmp_path: Path) -> None:
    convert(FP8, tmp_path / "out", to="f16")
    with open(FP8) as before, open(tmp_path / "out") as after:
        for name in EXPECTED:
            assert after[name].tobytes() == before.dequantized(name, np.float16).tobytes()
    codes = np.full((2, 2), 448, ml_dtypes.float8_e4m3fn)
    save(tmp_path / "w.safetensors", {"w": codes, "w" + SCALE: np.float32([[200]])})
    with pytest.raises(CheckpointError, match="beyond float16's largest"):
        convert(tmp_path / "w.safetensors", tmp_path / "h.safetensors", to="f16")
    assert not (tmp_path / "h.safetensors").exists()
    convert(tmp_path / "w.safetensors", tmp_path / "h.safetensors", to="f16", exclude=["w"])


# --- Into FP8 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "scale"), [("fp8", "float32"), ("fp8-ue8m0", "ue8m0")])
@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_numbers_to_release_format_by_the_textbook(tmp_path: Path, to: str, scale: str, source: str) -> None:
    folder = PLAIN
    if source == "bfloat16":
        folder = tmp_path / "bf16"
        convert(FP8, folder, to="bf16")
    convert(folder, tmp_path / "out", to=to, verify=True)
    with open(folder) as before, open(tmp_path / "out") as after:
        quantized = {name for name in before if in_recipe(name)}
        assert set(after) == set(before) | {name + SCALE for name in quantized}
        for name in before:
            if name in quantized:
                codes, scales = by_textbook(before[name], scale)
                assert (after[name].tobytes(), after[name + SCALE].tobytes()) == (codes, scales)
                assert after.info(name + SCALE).file == after.info(name).file == before.info(name).file
            else:
                assert after[name].tobytes() == before[name].tobytes()
        assert after.block == (128, 128)
        assert after.scale_fmt == (None if scale == "float32" else "ue8m0")
        assert after.quantization["quant_method"] == "fp8"


def test_the_recipe_names_what_the_release_has_in_fp8() -> None:
    with open(FP8) as ckpt:
        assert {name for name in ckpt if in_recipe(name)} == set(EXPECTED)
        assert any("layers.2" in name for name in EXPECTED), "the multi-token-prediction layer"
    others = ["model.embed_tokens.weight", "lm_head.weight", "model.layers.3.mlp.gate.weight"]
    others += ["model.layers.61.eh_proj.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.bias"]
    assert not any(map(in_recipe, others))


def test_there_and_back_and_there_again_is_the_same(tmp_path: Path) -> None:
    convert(FP8, tmp_path / "a", to="f32")
    convert(tmp_path / "a", tmp_path / "b", to="fp8")
    convert(tmp_path / "b", tmp_path / "c", to="f32")
    convert(tmp_path / "c", tmp_path / "d", to="fp8")
    b, d = contents(tmp_path / "b"), contents(tmp_path / "d")
    assert b == d
    with open(FP8) as before, open(tmp_path / "b") as after:
        assert {n: x.shape for n, x in before.items()} == {n: x.shape for n, x in after.items()}


# --- FP8 to FP8 ---------------------------------------------------------------------------------------------


def test_fp8_stays_fp8(tmp_path: Path) -> None:
    report = convert(FP8, tmp_path / "out", to="fp8")
    assert "no tensor is changed" in report.notes[0]
    with open(FP8) as before, open(tmp_path / "out") as after:
        assert {n: (x.dtype, x.tobytes()) for n, x in before.items()} == {
            n: (x.dtype, x.tobytes()) for n, x in after.items()
        }


@pytest.mark.parametrize("to", ["fp8", "fp8-ue8m0"])
@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "bfloat16"])
def test_scales_of_other_dtypes_become_float32(tmp_path: Path, dtype: str, to: str) -> None:
    codes = RNG.integers(0, 120, (130, 300), np.uint8).view(ml_dtypes.float8_e4m3fn)
    scales = (2.0 ** RNG.integers(-9, 3, (2, 3))).astype(dtype)
    source = stored.shards(
        tmp_path / "src", {"a.safetensors": {"w": codes}, "b.safetensors": {"w" + SCALE: scales}}
    )
    report = convert(source, tmp_path / "out", to=to)
    with open(tmp_path / "out") as after:
        assert after["w"].tobytes() == codes.tobytes()
        np.testing.assert_array_equal(after["w" + SCALE], scales.astype(np.float32))
    if to == "fp8-ue8m0":
        assert "codes and scales are as they were" in report.notes[-1]
        assert not (tmp_path / "out" / "b.safetensors").exists(), "it held nothing but scales"


def test_powers_of_two_are_kept_and_other_blocks_rounded_again(tmp_path: Path) -> None:
    codes = RNG.integers(0, 120, (256, 300), np.uint8).view(ml_dtypes.float8_e4m3fn)
    scales = np.float32([[0.25, 0.3, 2], [1.7, 4, 0.1]])
    save(tmp_path / "w.safetensors", {"w": codes, "w" + SCALE: scales})
    report = convert(tmp_path / "w.safetensors", tmp_path / "u.safetensors", to="fp8-ue8m0")
    grid = np.repeat(np.repeat(scales, 128, 0), 128, 1)[:, :300]
    numbers = codes.astype(np.float32) * grid
    q = reference.quantize_blocks(numbers, block=(128, 128), scale="ue8m0")
    kept = np.log2(scales) % 1 == 0
    with open(tmp_path / "u.safetensors") as after:
        np.testing.assert_array_equal(after["w" + SCALE], np.where(kept, scales, q.effective_scales()))
        where = np.repeat(np.repeat(kept, 128, 0), 128, 1)[:, :300]
        expected = np.where(where, codes.view(np.uint8), q.codes.view(np.uint8))
        np.testing.assert_array_equal(after["w"].view(np.uint8), expected)
        again = after.dequantized("w")
    error = np.linalg.norm((again - numbers)[~where]) / np.linalg.norm(numbers[~where])
    assert 0.01 < error < 0.04
    assert f"3 blocks were rounded a second time, an error of {error:.2%}" in report.notes[-1]


def test_powers_of_two_are_those_of_e8m0() -> None:
    every = np.arange(255, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert powers_of_two(every).all()
    others = np.float32([0, 3, 1.5, np.inf, 2.0**-128, 2.0**-149, 0.1, np.nextafter(np.float32(2), 3)])
    assert not powers_of_two(others).any()


def test_other_fp8_formats_become_e4m3_when_they_are_rounded_again(tmp_path: Path) -> None:
    codes = RNG.integers(0, 0x7C, (130, 60), np.uint8).view(ml_dtypes.float8_e5m2)
    scales = np.float32([[2], [0.3]])
    save(tmp_path / "w.safetensors", {"w": codes, "w" + SCALE: scales})
    convert(tmp_path / "w.safetensors", tmp_path / "u.safetensors", to="fp8-ue8m0")
    numbers = codes.astype(np.float32) * np.repeat(scales, 128, 0)[:130]
    with open(tmp_path / "u.safetensors") as after:
        assert after.info("w").dtype == "F8_E4M3"
        assert (after["w"].tobytes(), after["w" + SCALE].tobytes()) == by_textbook(numbers, "ue8m0")


# --- Cuts, jobs, choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(("size", "largest"), [(100, 50), (1000, 1 << 22), (1, 1 << 14)])
def test_chunks_and_jobs_change_nothing(
    tmp_path: Path, to: str, size: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if to not in NUMPY:
        largest = max(largest, 1 << 14)  # a whole block
    source = FP8 if to in NUMPY or to == "fp8-ue8m0" else PLAIN
    convert(source, tmp_path / "whole", to=to, threads=1)
    monkeypatch.setattr(chunks, "_CHUNK_SIZE", size)
    monkeypatch.setattr(chunks, "LARGEST_CHUNK", largest)
    convert(source, tmp_path / "cut", to=to, threads=5, verify=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def covered(shape: tuple[int, ...], block: tuple[int, int], whole: bool) -> None:
    """Every element is in one chunk; no chunk has an edge of a block inside unless its blocks are whole."""
    seen = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), int)
    for chunk in chunks.split(shape, block, whole=whole):
        seen[chunk.place, chunk.r0 : chunk.r1, chunk.c0 : chunk.c1] += 1
        for begin, end, side, length in (
            (chunk.r0, chunk.r1, block[0], shape[-2]),
            (chunk.c0, chunk.c1, block[1], shape[-1]),
        ):
            inside = begin // side == (end - 1) // side
            edges = begin % side == 0 and (end % side == 0 or end == length)
            assert edges or (inside and not whole)
    assert (seen == 1).all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("block", [(1, 1), (4, 4), (3, 5), (100, 100)])
@pytest.mark.parametrize("shape", [(1, 1), (9, 11), (2, 3, 8, 8), (1, 64), (64, 1), (0, 4), (4, 0)], ids=str)
def test_chunks_cover_a_tensor_once(
    shape: tuple[int, ...], block: tuple[int, int], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, largest in ((1, 1), (7, 20), (16, 16), (1000, 1000)):
        monkeypatch.setattr(chunks, "_CHUNK_SIZE", size)
        sides = [min(b, n) for b, n in zip(block, shape[-2:], strict=True)]
        monkeypatch.setattr(chunks, "LARGEST_CHUNK", max(largest, int(np.prod(sides)) if whole else 1))
        covered(shape, block, whole)


def test_stacks_of_matrices_and_blocks_of_the_configuration(tmp_path: Path) -> None:
    codes = RNG.integers(0, 120, (3, 50, 70), np.uint8).view(ml_dtypes.float8_e5m2)
    scales = RNG.uniform(0.1, 2, (3, 2, 3)).astype(np.float32)
    config = {"quantization_config": {"weight_block_size": [32, 32]}}
    stored.shards(tmp_path / "src", {"m.safetensors": {"w": codes, "w" + SCALE: scales}}, config)
    convert(tmp_path / "src", tmp_path / "out", to="f32")
    grid = np.repeat(np.repeat(scales, 32, 1), 32, 2)[:, :50, :70]
    with open(tmp_path / "out") as after:
        np.testing.assert_array_equal(after["w"], codes.astype(np.float32) * grid)


def test_include_and_exclude(tmp_path: Path) -> None:
    convert(FP8, tmp_path / "out", to="bf16", include=["model.layers.0.*"], exclude=["*.mlp.*"])
    with open(FP8) as before, open(tmp_path / "out") as after:
        changed = {name for name in EXPECTED if after.info(name).dtype == "BF16"}
        assert changed == {n for n in EXPECTED if n.startswith("model.layers.0.self_attn")}
        assert {n for n in before if n not in after} == {n + SCALE for n in changed}
        left = after.quantization["modules_to_not_convert"]
        assert left == sorted(n.removesuffix(".weight") for n in changed)
        assert after.quantized(sorted(set(EXPECTED) - changed)[0]).block == (128, 128)
    with pytest.raises(ValueError, match="matches no tensor"):
        convert(FP8, tmp_path / "other", to="bf16", include=["nothing.*"])


def test_file_to_file(tmp_path: Path) -> None:
    convert(FP8, tmp_path / "folder", to="bf16")
    convert(PLAIN / "model.safetensors", tmp_path / "one.safetensors", to="fp8", verify=True)
    convert(PLAIN, tmp_path / "plain", to="fp8")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    with pytest.raises(FileExistsError):
        convert(PLAIN / "model.safetensors", tmp_path / "one.safetensors", to="fp8")
    with pytest.raises(ValueError, match=r"expected a \.safetensors file"):
        convert(PLAIN / "model.safetensors", tmp_path / "somewhere", to="fp8")


def test_a_model_cache(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for path in FP8.iterdir():
        shutil.copy(path, cache / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    convert(cache, tmp_path / "out", to="bf16")
    convert(FP8, tmp_path / "direct", to="bf16")
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


# --- Who reads it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGETS)
def test_the_safetensors_package_opens_every_file(tmp_path: Path, to: str) -> None:
    convert(FP8 if to in NUMPY else PLAIN, tmp_path / "out", to=to)
    with open(tmp_path / "out") as ours:
        names = set()
        for file in ours.files:
            with safe_open(tmp_path / "out" / file, "np") as peer:
                assert peer.metadata() == ours.metadata(file)
                for name in peer.keys():  # noqa: SIM118  (no mapping)
                    names.add(name)
                    part = peer.get_slice(name)
                    assert (part.get_dtype(), tuple(part.get_shape())) == ours.info(name)[1:3]
                    if part.get_dtype() in ("F32", "F16"):
                        np.testing.assert_array_equal(peer.get_tensor(name), ours[name])
        assert names == set(ours)


def test_transformers_loads_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    convert(FP8, tmp_path / "out", to="f32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    with open(tmp_path / "out") as ours:
        weights: dict[str, Any] = dict(model.state_dict())
        name = "model.layers.0.self_attn.o_proj.weight"
        assert weights[name].numpy().tobytes() == ours[name].tobytes()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["convert", str(FP8), str(tmp_path / "out"), "--to", "fp8-ue8m0", "--verify", "--threads", "2"]
        )
    out, err = capsys.readouterr()
    assert not stop.value.code
    assert "48 requantized" in out
    assert "verified" in out
    assert "rounded a second time" in err
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", str(FP8), str(tmp_path / "out"), "--to", "bf16"])
    assert stop.value.code == 1
    assert "is not empty" in capsys.readouterr().err
