"""Golden vectors of the model's parts: near the model's own forward, and the same bits on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import _core, golden
from dsv3_numerics.compare.manifest import open_manifest
from dsv3_numerics.golden import elementary
from dsv3_numerics.golden.canonical import Canonical
from dsv3_numerics.golden.held_models import CONFIGS, RandomWeights, held_model
from dsv3_numerics.model import Model, demo_checkpoint

DIGESTS = Path(__file__).parents[1] / "golden" / "golden_vectors.json"
FLASHMLA = '{"preset": "deepseek_v3", "cache": "flashmla"}'
LOGFMT = '{"preset": "deepseek_v3", "dispatch": "logfmt8", "combine": "logfmt10"}'
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "quantize": ("quantize", {"rule": "deepseek_v3_log2", "scale": "ue8m0", "layout": "packed_ue8m0"}),
    "logfmt": ("logfmt", {"cases": ["normal", "powers"]}),
    "product": ("product", {"grouped": "contiguous", "cases": ["normal", "cancellation"]}),
    "wgrad": ("wgrad", {"n": 16, "k": 128, "ks": (128, 128), "cases": ["normal"]}),
    "fprop_float64": ("fprop", {"recipe": "float64", "cases": ["normal"]}),
    "gate": ("gate", {}),
    "expert_logfmt": ("expert", {"recipe": LOGFMT, "tokens": 3}),
    "expert_nvfp4": ("expert", {"recipe": "blackwell_nvfp4", "tokens": 3}),
    "attention_float64": ("attention", {"recipe": "float64", "absorbed": True, "cases": ["hidden"]}),
    "attention_sparse": ("attention", {"model": "tiny_dsa", "past": 9, "recipe": "bf16"}),
    "layer_float32": ("layer", {"recipe": "float32", "cases": ["hidden"], "record": "results"}),
    "forward": ("forward", {"tokens": 5}),
    "forward_demo": ("forward", {"model": "demo", "batch": 1, "cases": ["real"]}),
}


def digests(folder: Path, names: list[str] | None = None) -> dict[str, str]:
    """SHA-256 of the manifests, which hold those of all tensors, without the package's version."""
    found = {}
    for name in CALLS if names is None else names:
        operation, arguments = CALLS[name]
        place = folder / name
        golden.write(operation, place, overwrite=True, **arguments)
        manifest = json.loads((place / "manifest.json").read_text())
        kept = {key: manifest[key] for key in ("arguments", "cases", "tensors")}
        found[name] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
    return found


def test_the_same_bytes_as_on_other_machines(tmp_path: Path) -> None:
    """Digests that another machine wrote: `python tests/unit/test_golden_models.py` writes them anew."""
    assert digests(tmp_path) == json.loads(DIGESTS.read_text())


def test_levels_and_threads_change_nothing(tmp_path: Path) -> None:
    names = ["product", "gate", "expert_nvfp4", "attention_sparse", "layer_float32"]
    before, threads = _core.simd_level(), _core.get_num_threads()
    try:
        found = []
        for level, count in ((_core.simd_levels()[0], 3), (_core.simd_levels()[-1], 1)):
            _core.set_simd_level(level)
            _core.set_num_threads(count)
            held_model.cache_clear()
            found.append(digests(tmp_path, names))
    finally:
        _core.set_simd_level(before)
        _core.set_num_threads(threads)
    assert found[0] == found[1]


@pytest.mark.skipif(sys.platform != "linux", reason="names of features are those of NumPy on x86")
def test_numpy_without_vectors_changes_nothing(tmp_path: Path) -> None:
    """NumPy's loops at the least that it is built for, in a process of their own."""
    off = "AVX AVX2 F16C FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    known = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    code = (
        "import json, pathlib, sys; sys.path[:0] = sys.argv[2:4]; import test_golden_models as t; "
        "names = ['gate', 'attention_sparse', 'layer_float32']; "
        "print(json.dumps(t.digests(pathlib.Path(sys.argv[1]), names)))"
    )
    here = Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(here), str(here.parent)],
        env={
            **os.environ,
            "NPY_DISABLE_CPU_FEATURES": " ".join(name for name in off.split() if known.get(name)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    assert found == {name: json.loads(DIGESTS.read_text())[name] for name in found}


def test_no_sum_or_function_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("asked the system")

    for name in (
        "exp",
        "sin",
        "cos",
        "log",
        "log2",
        "power",
        "dot",
        "matmul",
        "einsum",
        "vdot",
        "inner",
        "tanh",
    ):
        monkeypatch.setattr(np, name, refuse)
    held_model.cache_clear()
    golden.write("layer", tmp_path, cases=["hidden"])


@pytest.mark.parametrize("recipe", ["float64", "float32", "bf16", "deepseek_v3", "blackwell_mxfp8"])
@pytest.mark.parametrize("absorbed", [False, True])
def test_near_the_models_own_forward(recipe: str, absorbed: bool) -> None:
    """The same but for the order of sums: float64 to 1e-12, float32 to 1e-4, bfloat16 nearly equal."""
    config = CONFIGS["tiny"]
    model = Model(config, RandomWeights(config, 0), dtype=np.float64)
    ids = np.arange(24).reshape(2, 12) * 7 % config.vocab_size
    own = model.trace(ids, recipe=recipe, absorbed=absorbed)
    found = model.trace(ids, recipe=Canonical(recipe), absorbed=absorbed)
    assert own.keys() == found.keys()
    for name, mine in own.items():
        other = found[name]
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        if name.endswith("topk_idx") and recipe in ("float64", "float32"):
            assert (mine == other).all()
    first = {name: (own[name], found[name]) for name in own if name.startswith("layer0.")}
    for name, (mine, other) in first.items():
        if recipe in ("float64", "float32"):
            assert np.abs(mine - other).max() <= {"float64": 1e-12, "float32": 1e-4}[recipe], name
        else:  # a place of bfloat16 where float32 sums fell on the other side
            assert (mine == other).mean() > 0.98, name
    if recipe in ("float64", "float32"):  # one flipped code in bfloat16 may send a token to other experts
        whole = np.abs(own["logits"] - found["logits"]).max() / np.abs(own["logits"]).max()
        assert whole < {"float64": 1e-12, "float32": 1e-4}[recipe]


def test_exp_sine_and_cosine() -> None:
    """Against 40 decimal digits, and against the system's: float64 to an ulp."""
    context = Context(prec=40)
    x = np.concatenate([np.linspace(-700, 700, 211), np.linspace(-1, 1, 101)])
    for value, found in zip(x.tolist(), elementary.exp(x).tolist(), strict=True):
        exact = context.exp(Decimal(value))
        assert abs(Decimal(found) - exact) <= Decimal(float(np.spacing(found)))
    assert elementary.exp(np.array([-np.inf, -746.5, 710.5, 0.0])).tolist() == [0.0, 0.0, np.inf, 1.0]
    angle = np.linspace(0, 70000, 20011)
    sine, cosine = elementary.sin_cos(angle)
    assert np.abs(sine - np.sin(angle)).max() < 3e-16
    assert np.abs(cosine - np.cos(angle)).max() < 3e-16


@pytest.mark.parametrize("model", ["tiny", "tiny_dsa", "heads_dsa"])
def test_decoding_goes_on_from_the_cache(model: str, tmp_path: Path) -> None:
    """New tokens over a cache give what a forward of all tokens gives, for sequences of unlike lengths."""
    arguments = {"model": model, "recipe": "float64", "cases": ["hidden"], "batch": 1}
    golden.write("attention", tmp_path / "whole", tokens=12, **arguments)
    golden.write("attention", tmp_path / "rest", tokens=3, past=9, **arguments)
    whole, rest = (open_manifest(tmp_path / name) for name in ("whole", "rest"))
    assert (whole["hidden.x"][:, 9:] == rest["hidden.x"]).all()
    assert np.abs(whole["hidden.out"][:, 9:] - rest["hidden.out"]).max() < 1e-12
    assert rest["hidden.cache_lengths"].tolist() == [9]
    assert np.abs(whole["hidden.cache_after"] - rest["hidden.cache_after"]).max() < 1e-12


@pytest.mark.parametrize("recipe", [FLASHMLA, "deepseek_v3", "blackwell_nvfp4", LOGFMT])
def test_operands_and_results_of_an_expert(recipe: str, tmp_path: Path) -> None:
    golden.write("expert", tmp_path, recipe=recipe, cases=["hidden"], tokens=4)
    held = open_manifest(tmp_path)
    gate, up = (held[f"hidden.{name}_proj.out"].astype(float) for name in ("gate", "up"))
    inner = gate / (1 + np.exp(-gate)) * up
    assert np.abs(held["hidden.silu.out"] - inner).max() < 0.02 * np.abs(inner).max()  # bfloat16 twice
    assert (held["hidden.down_proj.out"] == held["hidden.y"]).all()
    assert held["hidden.x"].shape == held["hidden.y"].shape == (4, 128)
    assert "weights.gate_proj.weight_codes" in held
    for name in ("gate_proj", "up_proj", "down_proj"):
        sums = held.get(f"hidden.{name}.promotion_sums", held.get(f"hidden.{name}.step_sums"))
        if sums is not None:
            assert (sums[-1].astype(ml_dtypes.bfloat16) == held[f"hidden.{name}.out"]).all()
    assert "hidden.down_proj.step_sums" in held


def test_a_forward_comes_with_a_checkpoint_that_gives_it(tmp_path: Path) -> None:
    for recipe in ("deepseek_v3", "deepseek_v31", "bf16", "blackwell_mxfp8"):
        place = tmp_path / recipe
        golden.write("forward", place, recipe=recipe, cases=["hidden"], batch=1, tokens=4)
        held = open_manifest(place)
        model = Model.from_checkpoint(place / "model")
        found = model.trace(held["hidden.ids"], ["logits"], recipe=Canonical(recipe), absorbed=False)
        assert (found["logits"] == held["hidden.logits"]).all()
        assert golden.verify(place).files == 3
    (place / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="SHA-256"):
        golden.verify(place)


def test_a_config_alone_is_a_random_model(tmp_path: Path) -> None:
    """The same weights and answers as those of a name that means the same config; the path plays no part."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIGS["heads"].to_dict()))
    few: dict[str, Any] = {"cases": ["hidden"], "batch": 1, "tokens": 2, "sums": True}
    for name, model in (("a", str(file)), ("b", "heads")):
        golden.write("attention", tmp_path / name, model=model, **few)
    file.unlink()
    assert golden.verify(tmp_path / "a", recompute=True).recomputed > 20
    a, b = (open_manifest(tmp_path / name) for name in ("a", "b"))
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    sums = a["hidden.q_a_proj.promotion_sums"]
    assert (sums[-1].astype(ml_dtypes.bfloat16) == a["hidden.q_a_proj.out"].reshape(2, -1)).all()
    with pytest.raises(OSError, match="nowhere"):
        golden.write("gate", tmp_path / "c", model="nowhere.json")


def test_real_models_are_named_by_their_files(tmp_path: Path) -> None:
    golden.write("attention", tmp_path, model=str(demo_checkpoint()), cases=["real"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sorted(manifest["model_files"]) == ["config.json", "model.safetensors"]
    assert golden.verify(tmp_path, recompute=True).recomputed > 20


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        DIGESTS.write_text(json.dumps(digests(Path(made)), indent=1) + "\n")
