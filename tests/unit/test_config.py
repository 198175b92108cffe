"""Configs as files have them: every field is used, refused, or on a list with a reason."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import checkpoint
from dsv3_numerics.model import Config, Model, random_weights
from dsv3_numerics.model.config import FAMILIES
from dsv3_numerics.model.config_fields import _DERIVED
from dsv3_numerics.model.families import NO_MATTER, REFUSED
from dsv3_numerics.model.rope_config import read_rope

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_v3" / "config.json"
PUBLISHED: dict[str, Any] = json.loads(GOLDEN.read_text())
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 40.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}
# Transformers 5 on the golden model: rope_parameters alone, and sizes that follow from others.
TRANSFORMERS_5 = {k: v for k, v in PUBLISHED.items() if k not in ("rope_scaling", "rope_theta")} | {
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "yarn", "type": "yarn", **YARN},
    "head_dim": 8,
    "qk_head_dim": 32,
    "output_router_logits": False,
    "rope_interleave": True,
}


def test_transformers_5_keeps_yarn() -> None:
    config = Config.from_json(TRANSFORMERS_5)
    assert config == Config.from_json(PUBLISHED)
    assert config.rope_scaling is not None
    assert config.rope_scaling.factor == 40


def test_both_places_have_to_agree() -> None:
    both = TRANSFORMERS_5 | {"rope_scaling": {"type": "yarn", **YARN}, "rope_theta": 10000}
    assert Config.from_json(both) == Config.from_json(PUBLISHED)
    other = both | {"rope_scaling": {"type": "yarn", **YARN, "factor": 32.0}}
    with pytest.raises(ValueError, match=r"rope_scaling: found Yarn\(factor=32.*rope_parameters: found Yarn"):
        Config.from_json(other)
    with pytest.raises(
        ValueError, match=r"rope_parameters.rope_theta: found 10000.0; rope_theta: found 50000.0"
    ):
        Config.from_json(both | {"rope_theta": 50000})
    plain = both | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    with pytest.raises(ValueError, match="no scaling"):
        Config.from_json(plain)


ROPES: dict[str, tuple[dict[str, Any], str]] = {
    "linear": ({"rope_type": "linear", "factor": 2.0}, "found type 'linear'"),
    "two types": ({"rope_type": "yarn", "type": "default", **YARN}, "expected one type"),
    "no type": ({"factor": 2.0}, "found factor, which type 'default' does not have"),
    "unknown": ({"rope_type": "yarn", **YARN, "foo": 1}, "found foo"),
    "partial": ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5"),
    "attention": ({"rope_type": "yarn", **YARN, "attention_factor": 1.5}, "attention_factor: found 1.5"),
    "per layer": ({"full_attention": {"rope_type": "default"}}, "full_attention"),
    "half of mscale": (
        {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.5},
        "expected both or neither",
    ),
    "scale alone": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale_all_dim": 1.0},
        "expected both or neither",
    ),
    "no context": ({"rope_type": "yarn", "factor": 40.0}, "original_max_position_embeddings missing"),
    "no factor": ({"rope_type": "yarn", "original_max_position_embeddings": 4}, "factor missing"),
    "zero": ({"rope_type": "yarn", **YARN, "beta_slow": 0.0}, "beta_slow: found 0.0"),
    "text": ({"rope_type": "yarn", **YARN, "mscale": "1"}, "mscale: found '1'"),
    "theta": ({"rope_type": "default", "rope_theta": -1}, "rope_theta: found -1"),
}


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(("found", "message"), ROPES.values(), ids=ROPES)
def test_rotary_settings_that_are_refused(place: str, found: dict[str, Any], message: str) -> None:
    if message.startswith("found factor") and place == "rope_scaling":
        message = "found type None"
    if "full_attention" in found and place == "rope_scaling":
        message = "found type None"
    with pytest.raises(ValueError, match=message):
        read_rope({place: found})


@pytest.mark.parametrize("kind", ["yarn", "deepseek_yarn"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_yarn_by_any_name(kind: str, key: str) -> None:
    assert read_rope({"rope_scaling": {key: kind, **YARN}}) == read_rope(
        {"rope_parameters": {key: kind, **YARN}}
    )


@pytest.mark.parametrize("found", [None, {"rope_type": "default"}, {"type": "default"}])
def test_no_scaling(found: Any) -> None:
    assert read_rope({"rope_scaling": found, "rope_theta": 50000}) == (50000.0, None)


# --- Every field of every family ----------------------------------------------------------------------------

TINY = Config.preset("tiny").replace(
    num_hidden_layers=2, num_nextn_predict_layers=0, n_routed_experts=8, n_group=4
)
V2 = {
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "topk_method": "group_limited_greedy",
    "norm_topk_prob": False,
    "q_lora_rank": None,
}


def file_of(kind: str) -> dict[str, Any]:
    """A file of a family that has a forward of its own, every field of `Config` set."""
    found = TINY.to_dict() | {"model_type": kind, "hidden_act": "silu", "attention_bias": False}
    if kind == "deepseek_v2":
        found |= V2
    if kind == "deepseek_v32":
        found |= {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 3, "indexer_rope_interleave": False}
    return found


# Another value for each field of `Config`, by which a forward changes or a file is refused.
OTHER: dict[str, Any] = {
    "eos_token_id": 7,
    "max_position_embeddings": 4096,
    "model_type": "kimi_k2",
    "norm_topk_prob": False,
    "rope_interleave": False,
    "rope_scaling": None,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "q_lora_rank": None,
    "rms_norm_eps": 1e-2,
    "latent_norm_eps": 1e-2,
    "rope_theta": 500.0,
    "routed_scaling_factor": 3.0,
    "indexer_rope_interleave": True,
    "indexer_types": ["full", "shared"],
    "index_topk": 2,
    "num_experts_per_tok": 2,
    "topk_group": 2,
    "n_group": 2,
    "first_k_dense_replace": 0,
}
NOT_IN_LOGITS = {
    "eos_token_id": "ends generations",
    "max_position_embeddings": "a bound that other programs use; caches here have a capacity of their own",
    "model_type": "the name of a family: the fields that differ between families are fields",
    "num_nextn_predict_layers": "logits of multi-token prediction are asked for apart",
}


def logits(found: dict[str, Any]) -> Any:
    config = Config.from_json(found)
    weights = random_weights(config, seed=1, dtype=np.float64)
    return Model(config, weights, dtype=np.float64).forward([5, 3, 1, 4, 1, 5, 9, 2])


@pytest.mark.parametrize("name", [f.name for f in fields(Config)])
@pytest.mark.parametrize("kind", ["deepseek_v3", "deepseek_v2", "deepseek_v32"])
def test_a_field_changes_the_forward_or_is_refused(kind: str, name: str) -> None:
    found = file_of(kind)
    value = found.get(name)
    other = OTHER.get(name, value * 2 if isinstance(value, int) and not isinstance(value, bool) else 4)
    if other == value:
        other = 12 if isinstance(value, int) else 0.5
    changed = found | {name: other}
    expected = logits(found)
    try:
        result = logits(changed)
    except ValueError:
        return
    same = result.shape == expected.shape and np.array_equal(result, expected)
    assert same == (name in NOT_IN_LOGITS), f"{name}: {value!r} and {other!r}"


def test_fields_that_cannot_matter_have_reasons() -> None:
    known = {f.name for f in fields(Config)}
    assert all(len(reason) > 3 for reason in NO_MATTER.values())
    assert not known & set(NO_MATTER)
    for family in FAMILIES.values():
        assert not set(family.only) & set(NO_MATTER)
        assert set(family.defaults) <= known
        assert set(family.aliases.values()) <= known
    assert not _DERIVED & set(NO_MATTER)


@pytest.mark.parametrize("name", sorted(NO_MATTER))
def test_fields_that_cannot_matter(name: str) -> None:
    assert Config.from_json(PUBLISHED | {name: "anything"}) == Config.from_json(PUBLISHED)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_fields_of_one_value(kind: str) -> None:
    for name in FAMILIES[kind].only:
        with pytest.raises(ValueError, match=f"{name}: found 'another'"):
            Config.from_json(PUBLISHED | {"model_type": kind, name: "another"})


DERIVED: dict[str, tuple[Any, str]] = {
    "head_dim": (9, "head_dim: found 9, expected 8 or 32"),
    "q_head_dim": (9, "q_head_dim: found 9"),
    "qk_head_dim": (33, "qk_head_dim: found 33, expected 32"),
    "num_key_value_heads": (2, "num_key_value_heads: found 2, expected 4"),
    "mlp_layer_types": (["sparse"] * 3, "0 dense layers, but first_k_dense_replace is 1"),
    "layer_types": (["sliding_attention"] * 3, "expected 'full_attention'"),
    "rope_parameters": ({"rope_type": "default"}, "no scaling"),
    "index_topk_freq": (2, "index"),
    "index_topk_pattern": ("FSF", "index"),
    "index_skip_topk_offset": (1, "index"),
}


@pytest.mark.parametrize("name", sorted(_DERIVED))
def test_fields_that_follow_from_others(name: str) -> None:
    value, message = DERIVED[name]
    with pytest.raises(ValueError, match=message):
        Config.from_json(PUBLISHED | {name: value})


def test_layer_types() -> None:
    plain = {k: v for k, v in PUBLISHED.items() if k != "first_k_dense_replace"}
    assert (
        Config.from_json(plain | {"mlp_layer_types": ["dense", "sparse", "sparse"]}).first_k_dense_replace
        == 1
    )
    for types, message in [
        (["sparse", "dense", "sparse"], "dense layers first"),
        (["dense"], "3 times"),
        ("dense", "3 times"),
        (["dense", "sparse", "odd"], "3 times"),
    ]:
        with pytest.raises(ValueError, match=message):
            Config.from_json(plain | {"mlp_layer_types": types})


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_models_that_are_something_else(kind: str) -> None:
    with pytest.raises(ValueError, match=f"model_type: found '{kind}' \\("):
        Config.from_json(PUBLISHED | {"model_type": kind})


@pytest.mark.parametrize("kind", ["llama", None, 3, [], ""])
def test_models_that_nobody_expects_here(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"model_type: found .*expected one of deepseek_v3"):
        Config.from_json(PUBLISHED | {"model_type": kind})


def test_ends() -> None:
    for found, expected in [(None, ()), (3, (3,)), ([], ()), ([3], (3,)), ([3, 5], (3, 5))]:
        config = Config.from_json(PUBLISHED | {"eos_token_id": found})
        assert config.eos_token_ids == expected
        assert Config.from_json(json.loads(json.dumps(config.to_dict()))) == config
    for wrong in ("3", -1, [3, "x"], 1.5):
        with pytest.raises(ValueError, match="eos_token_id"):
            Config.from_json(PUBLISHED | {"eos_token_id": wrong})


# --- Families -----------------------------------------------------------------------------------------------


def test_latent_norms_have_an_epsilon_of_their_own() -> None:
    config = Config.from_json(PUBLISHED | {"rms_norm_eps": 1e-5})
    assert (config.rms_norm_eps, config.latent_norm_eps) == (1e-5, 1e-6)


def test_indexers_by_list_pattern_and_frequency() -> None:
    sparse = TINY.replace(num_hidden_layers=5).to_dict() | {
        "model_type": "glm_moe_dsa",
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 4,
    }
    listed = ["full", "shared", "full", "shared", "shared"]
    assert Config.from_json(sparse).indexer_types is None
    assert Config.from_json(sparse).indexer_rope_interleave
    assert not Config.from_json(sparse | {"model_type": "deepseek_v32"}).indexer_rope_interleave
    by_list = Config.from_json(sparse | {"indexer_types": listed})
    assert by_list == Config.from_json(sparse | {"index_topk_pattern": "FSFSS"})
    assert [by_list.has_indexer(i) for i in range(6)] == [True, False, True, False, False, True]
    freq = Config.from_json(sparse | {"index_topk_freq": 3, "index_skip_topk_offset": 1})
    assert freq.indexer_types == ("full", "shared", "shared", "full", "shared")
    for config in (by_list, freq, Config.from_json(sparse)):
        assert Config.from_json(json.loads(json.dumps(config.to_dict()))) == config
    for change, message in [
        ({"indexer_types": ["full"]}, "1 entries"),
        ({"indexer_types": ["shared"] * 5}, "found 'shared' first"),
        ({"indexer_types": ["full", "odd", "full", "full", "full"]}, "found 'odd'"),
        ({"index_topk_pattern": "FX"}, "found 'X'"),
        ({"index_topk_freq": 0}, "index_topk_freq: found 0"),
        ({"q_lora_rank": None}, "q_lora_rank: missing"),
        ({"index_topk": None}, "index_topk: missing"),
        ({"index_head_dim": 4}, "index_head_dim: found 4, expected at least qk_rope_head_dim"),
    ]:
        with pytest.raises(ValueError, match=message):
            Config.from_json(sparse | change)


def test_aliases() -> None:
    found = {k: v for k, v in PUBLISHED.items() if k not in ("n_routed_experts", "n_shared_experts")}
    config = Config.from_json(
        found | {"model_type": "sarvam_mla", "num_experts": 24, "num_shared_experts": 1}
    )
    assert config.n_routed_experts == 24
    with pytest.raises(ValueError, match=r"num_experts: found 12, but 24"):
        Config.from_json(PUBLISHED | {"model_type": "sarvam_mla", "num_experts": 12})


# --- Files whose tensors say something else -----------------------------------------------------------------


def folder_of(path: Path, config: dict[str, Any], weights: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    checkpoint.save(path / "model.safetensors", weights)
    return path


@pytest.fixture
def weights() -> dict[str, Any]:
    return dict(random_weights(TINY, dtype=np.float32))


def test_a_file_without_multi_token_prediction(tmp_path: Path, weights: dict[str, Any]) -> None:
    """transformers leaves these tensors out, and keeps the field."""
    config = TINY.to_dict() | {"num_nextn_predict_layers": 1}
    folder = folder_of(tmp_path / "model", config, weights)
    with pytest.warns(UserWarning, match="running without it"):
        model = Model.from_checkpoint(folder)
    assert not model.mtp_layers
    assert np.array_equal(model.forward([1, 2, 3]), Model(TINY, weights).forward([1, 2, 3]))
    some = next(name for name in weights if name.startswith("model.layers.1."))
    partial = weights | {some.replace("layers.1.", "layers.2."): weights[some]}
    with pytest.raises(ValueError, match="missing, expected shape"):
        Model.from_checkpoint(folder_of(tmp_path / "partial", config, partial))


def test_layers_beyond_are_counted(tmp_path: Path, weights: dict[str, Any]) -> None:
    extra = {"model.layers.7.enorm.weight": np.ones(TINY.hidden_size, np.float32)}
    folder = folder_of(tmp_path / "model", TINY.to_dict(), weights | extra)
    with pytest.warns(UserWarning, match="1 layers beyond the config's are left out: 7"):
        Model.from_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.indexer.wk.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.1.post_mlp_layernorm.weight",
        "model.layers.1.self_attn.q_a_proj.bias",
        "visual.patch_embed.weight",
    ],
)
def test_unknown_tensors(tmp_path: Path, weights: dict[str, Any], name: str) -> None:
    """A file of another model, say one of V3.2 without its index fields, has tensors that nothing takes."""
    odd = weights | {name: np.ones(4, np.float32)}
    with pytest.raises(ValueError, match=f"{name}: not a tensor of deepseek_v3"):
        Model(TINY, odd)
    with pytest.raises(ValueError, match=f"{name}: not a tensor of deepseek_v3"):
        Model.from_checkpoint(folder_of(tmp_path / "model", TINY.to_dict(), odd))


def test_saved_frequencies_are_known(weights: dict[str, Any]) -> None:
    Model(TINY, weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)})
