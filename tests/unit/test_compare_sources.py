"""Files and folders of others: read rightly, or refused by name."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3
import torch_archive as torch
from commands import call
from dsv3_numerics.compare import compare
from dsv3_numerics.compare.names import canonical, match_names
from dsv3_numerics.compare.sources import opened
from dsv3_numerics.compare.torch_files import TorchFile

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_tensors_of_torch_are_read(tmp_path: Path) -> None:
    path = torch.save(tmp_path / "a.pt", {"x": X, "b": X.astype(ml_dtypes.bfloat16), "n": X.astype(np.int64)})
    found = TorchFile(path)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "x": "float32", "b": "bfloat16", "n": "int64",
    }  # fmt: skip
    np.testing.assert_array_equal(found["x"], X)


def test_views_are_read(tmp_path: Path) -> None:
    turned = torch.tensor("0", X, (4, 3), (1, 4))
    tail = torch.tensor("0", X, (4,), (1,), offset=8)
    same = torch.tensor("0", X, (2, 3), (0, 1))
    content = torch.mapping({"t": turned, "tail": tail, "same": same, "text": torch.text("words")})
    found = TorchFile(torch.write(tmp_path / "a.pt", content, {"0": X.tobytes()}))
    np.testing.assert_array_equal(found["t"], X.T)
    np.testing.assert_array_equal(found["tail"], X[2])
    np.testing.assert_array_equal(found["same"], np.stack([X[0, :3]] * 2))
    assert found.left_out == ["text"]


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def _zip(content: bytes) -> Callable[[Path], Path]:
    return lambda path: torch.write(path, content, {"0": X.tobytes()})


def _compressed(path: Path) -> Path:
    record = torch.mapping({"x": torch.tensor("0", X)})
    return torch.write(path, record, {"0": bytes(1 << 16)}, zipfile.ZIP_DEFLATED)


def _cut(path: Path) -> Path:
    whole = torch.save(path, {"x": X}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _raw(data: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return make


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "code": (_zip(pickle.dumps(_Evil(), 2)[2:-1]), "system in the pickle, which is refused"),
    "eval": (_zip(b"cbuiltins\neval\n" + torch.several(torch.text("1")) + b"R"), "builtins.eval"),
    "an object": (_zip(b"ctorch.nn\nLinear\n)R"), "torch.nn.Linear"),
    "beyond the storage": (_zip(torch.tensor("0", X, (4, 4))), "beyond its storage"),
    "huge shape": (_zip(torch.tensor("0", X, (2**30, 2**30), (0, 0))), "shape"),
    "negative stride": (_zip(torch.tensor("0", X, (3,), (-1,))), "beyond its storage"),
    "no storage": (_zip(torch.tensor("9", X)), "no storage '9'"),
    "unfinished": (_zip(b"("), "damaged pickle"),
    "far memo": (_zip(b"}r\xff\xff\xff\x7f"), "remembers place"),
    "deep": (_zip(b"]" * 1 + b"(" * 0 + b"".join([b"]"] * 40) + b"a" * 40), "deep"),
    "compressed": (_compressed, "compressed"),
    "cut": (_cut, "archive"),
    "an old pickle": (_raw(b"\x80\x02}q\x00."), "found no zip archive"),
    "empty": (_raw(b""), "found no zip archive"),
    "a pipe": (_fifo, "not a regular file but a pipe"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    path = make(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        compare(path, path)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f4", "fortran_order": False, "shape": (25 << 20,)}
        )
        for _ in range(100):
            member.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="packed into"):
        compare(path, path)


def test_archives_of_numpy_are_mapped_or_unpacked(tmp_path: Path) -> None:
    arrays = {"x": X, "t": np.asfortranarray(X), "e": np.zeros((0, 3)), "s": np.float64(2)}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    assert compare(tmp_path / "a.npz", tmp_path / "b.npz").equal
    np.savez(tmp_path / "o.npz", x=np.array([None]))
    with pytest.raises(ValueError, match="objects"):
        compare(tmp_path / "o.npz", tmp_path / "a.npz")


def dump(folder: Path, ranks: list[dict[str, np.ndarray]]) -> Path:
    for rank, tensors in enumerate(ranks):
        torch.save(folder / f"TP{rank}_PP0_Rank{rank}_pid{rank}7" / "Pass00000.pt", tensors)
    return folder


def test_dumps_of_sglang_are_joined(tmp_path: Path) -> None:
    whole = {
        "model.layers.0.self_attn.q_b_proj": X, "model.layers.0.mlp.gate_up_proj": X, "model.norm": X,
        "model.layers.0.strange": X,
    }  # fmt: skip
    left, right = (
        {
            "model.layers.0.self_attn.q_b_proj": X[:, part],
            "model.layers.0.mlp.gate_up_proj": np.concatenate([X[:, :2][:, half], X[:, 2:][:, half]], axis=1),
            "model.norm": X,
            "model.layers.0.strange": X * (rank + 1),
        }
        for rank, (part, half) in enumerate(((slice(0, 2), slice(0, 1)), (slice(2, 4), slice(1, 2))))
    )
    folder = dump(tmp_path / "dump", [left, right])
    np.savez(tmp_path / "a.npz", **whole)
    found = compare(tmp_path / "a.npz", folder)
    assert [one.equal for one in found.tensors] == [True, True, True]
    assert found.only_a == ["model.layers.0.strange"]
    assert sorted(found.only_b) == ["model.layers.0.strange.rank0", "model.layers.0.strange.rank1"]
    assert any("2 ranks" in note for note in found.notes)
    assert any("no rule joins them" in note for note in found.notes)


def test_dumps_of_msprobe_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "dump" / "step0" / "rank" / "dump_tensor_data"
    torch.save(folder / "Module.model.layers.0.self_attn.q_a_proj.Linear.forward.0.output.0.pt", {"value": X})
    found = compare({"layer0.q_a_proj": X}, tmp_path / "dump")
    assert found.equal, found.lines()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("layer3.attn_out", "model.layers.3.self_attn"),
        ("layer3.mlp_out", "model.layers.3.mlp"),
        ("layer3.output", "model.layers.3"),
        ("layer3.output", "model.layers.3.output.0"),
        ("layer0.ffn_norm", "model.layers.0.post_attention_layernorm"),
        ("layer3.router_logits", "model.layers.3.mlp.gate"),
        ("final_norm", "model.norm"),
        ("logits", "lm_head"),
        ("layer1.q_a_proj", "model.layers.1.self_attn.mla_attn.q_a_proj"),
        ("layer1.q_a_proj", "model.layers.1.self_attn.q_a_proj.0"),
    ],
)
def test_spellings(ours: str, theirs: str) -> None:
    assert canonical(ours) == canonical(theirs)
    assert match_names([ours], [theirs])[0] == [(ours, theirs)]


def test_reports_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y = X.copy()
    y[1, 2] += 1
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", y)
    code, out, _ = call(
        "compare",
        str(tmp_path / "a.npy"),
        str(tmp_path / "b.npy"),
        "--out",
        str(tmp_path / "r"),
        capsys=capsys,
    )
    assert code == 1
    page = (tmp_path / "r" / "compare.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page
    assert json.loads((tmp_path / "r" / "compare.json").read_text())["tensors"][0]["differing"] == 1
    assert (tmp_path / "r" / "compare.txt").read_text() == out


def _hooks(folder: Path) -> Path:
    """Files as SGLang's forward hooks write them: the model's own output opens the next file."""
    rank = folder / "TP0_PP0_Rank0_pid321"
    for number in range(3):
        inside = {
            "model.embed_tokens": X + number,
            "model.layers.0.input_layernorm": X + number,
            "model.norm": X + number,
            "model.forward_batch_info.input_ids": X + number,
        }
        late = {"model": X + number - 1, "logits_processor": X + number - 1}
        torch.save(rank / f"Pass{number:05d}.pt", (late if number else {}) | inside)
    return folder


def test_outputs_behind_the_model_belong_to_the_pass_before(tmp_path: Path) -> None:
    _hooks(tmp_path / "dump")
    ours = {}
    for number, prefix in enumerate(("", "pass1.", "pass2.")):
        ours |= {f"{prefix}model.{name}": X + number for name in ("embed_tokens", "norm")}
        ours |= {f"{prefix}{name}": X + number for name in ("model", "lm_head") if number < 2}
    found = compare(ours, tmp_path / "dump")
    assert [one.name for one in found.tensors if not one.equal] == []
    assert found.only_a == []
    assert any("4 outputs of model and behind it belong to the pass before" in note for note in found.notes)


def test_dumps_of_the_dumper_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plain = "___recompute_status=disabled"
    names = (
        (0, 9, f"non_intrusive__model.norm.output{plain}"),
        (0, 10, f"h{plain}___layer_id=3"),
        (0, 11, f"h{plain}___layer_id=3"),
        (1, 12, "non_intrusive__model.layers.0.mlp.output___layer_id=0"),
        (1, 13, "pair"),
    )
    for i, (step, index, name) in enumerate(names):
        path = folder / f"step={step}___rank=0___dump_index={index}___name={name}.pt"
        torch.save(path, {"value": X + i, "meta.step": X})
    ours = {
        "norm": X, "h.layer_id=3": X + 1, "h.layer_id=3#2": X + 2, "pass1.layers.0.mlp": X + 3,
        "pass1.pair": X + 4,
    }  # fmt: skip
    found = compare(ours, tmp_path)
    assert found.equal, found.lines()
    assert any("5 numbers about tensors (meta) are left out" in note for note in found.notes)


def test_folders_of_processes_are_msprobe_s_too(tmp_path: Path) -> None:
    for step in (0, 1):
        folder = tmp_path / f"step{step}" / "proc77" / "dump_tensor_data"
        torch.save(folder / "Module.lm_head.Linear.forward.0.output.0.pt", {"array": X + step})
        torch.save(folder / "Module.lm_head.Linear.forward.0.parameters.weight.pt", {"array": X})
        torch.save(folder / "Functional.silu.0.forward.output.0.pt", {"array": X})
    ours = {"lm_head": X, "lm_head.weight": X, "pass1.lm_head": X + 1, "pass1.lm_head.weight": X}
    found = compare(ours, tmp_path)
    assert found.only_a == []
    assert all(one.equal for one in found.tensors)
    assert found.only_b == [f"{p}Functional.silu.0.forward.output.0" for p in ("", "pass1.")]


def test_saved_values_are_what_they_mean(tmp_path: Path) -> None:
    """Codes and scales in their own dtypes; equal integers that mean other numbers are not equal."""
    x = np.random.default_rng(0).standard_normal((8, 256), dtype=np.float32)
    quantized, nvfp4, logs = d3.quantize_tiles(x), d3.quantize(x, "nvfp4"), d3.logfmt_encode(x, bits=8)
    for name, value in {"a": quantized, "b": nvfp4, "c": logs}.items():
        value.save(tmp_path / f"{name}.npz")
        found = compare(tmp_path / f"{name}.npz", tmp_path / f"{name}.npz")
        assert found.equal
        assert any(f"{name}.npz is a saved {type(value).__name__}" in note for note in found.notes)
    with opened(tmp_path / "a.npz", "a") as held:
        assert held["codes"].dtype == quantized.codes.dtype
        assert held["scales"].dtype == np.float32
    with opened(tmp_path / "b.npz", "a") as held:
        assert held["global_scale"] == nvfp4.global_scale
    codes = quantized.codes.view(d3.format_info("e4m3fnuz").dtype)
    other = replace(quantized, codes=codes, format="float8_e4m3fnuz")
    other.save(tmp_path / "d.npz")
    assert not compare(tmp_path / "a.npz", tmp_path / "d.npz").equal
    np.savez(tmp_path / "plain.npz", meta=np.frombuffer(b'{"magic": "mine"}', np.uint8), codes=np.arange(3))
    with opened(tmp_path / "plain.npz", "a") as held:
        assert sorted(held) == ["codes", "meta"]
    later = b'{"magic": "dsv3_numerics.Quantized/9"}'
    np.savez(tmp_path / "later.npz", meta=np.frombuffer(later, np.uint8), codes=np.arange(3))
    with pytest.raises(ValueError, match="Quantized/9"):
        compare(tmp_path / "later.npz", tmp_path / "later.npz")


def test_a_dtype_that_numpy_lost_is_named(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", scales=d3.quantize_tiles(np.ones((1, 128), np.float32), scale="ue8m0").scales
    )
    with pytest.raises(TypeError, match=r"scales: dtype: found .*V1.*ml_dtypes"):
        compare(tmp_path / "a.npz", tmp_path / "a.npz")
