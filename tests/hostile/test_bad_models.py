"""Models given wrong input: clear errors, and nothing changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics.model import (
    MLA,
    Block,
    Cache,
    Config,
    Gate,
    Model,
    Sampler,
    random_checkpoint,
    random_weights,
    stream,
    traffic,
    update_bias,
)
from dsv3_numerics.model import model as model_module

TINY = Config.preset("tiny")
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(TINY, random_weights(TINY))


IDS: dict[str, tuple[Any, type[Exception], str]] = {
    "too large": ([[0, 192]], ValueError, "found 0 to 192, expected 0 to 191"),
    "negative": ([-1], ValueError, "found -1"),
    "float": ([0.5], TypeError, "float64"),
    "bool": ([True], TypeError, "bool"),
    "no axis": (3, ValueError, r"shape \(\)"),
    "three axes": (np.zeros((1, 1, 1), int), ValueError, r"\(1, 1, 1\)"),
    "masked": (np.ma.masked_array([1]), TypeError, "masked"),
    "ragged": ([[1], [1, 2]], ValueError, "ids"),
    "text": (["a"], TypeError, "ids"),
}


@pytest.mark.parametrize(("ids", "error", "message"), IDS.values(), ids=IDS)
def test_ids(tiny: Model, ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tiny.forward(ids)


def test_no_tokens(tiny: Model) -> None:
    assert tiny.forward(np.zeros((2, 0), np.int64)).shape == (2, 0, 192)
    assert tiny.forward(np.zeros((0, 3), np.int64)).shape == (0, 3, 192)
    assert tiny.forward([]).shape == (0, 192)
    with pytest.raises(ValueError, match="prompt of at least one token"):
        tiny.generate([])


def test_positions_past_the_cache(tiny: Model) -> None:
    cache = tiny.new_cache(1, 4)
    tiny.forward([[1, 2, 3]], cache=cache)
    with pytest.raises(ValueError, match=r"room for 4 tokens, expected at least 5 \(3 held and 2 new\)"):
        tiny.forward([[1, 2]], cache=cache)
    assert cache.lengths.tolist() == [3]
    with pytest.raises(ValueError, match="one for 1 sequences, expected 2"):
        tiny.forward([[1], [2]], cache=cache)
    with pytest.raises(ValueError, match="lengths"):
        cache.truncate([4])
    with pytest.raises(ValueError, match="lengths"):
        tiny.forward([[1, 2]], lengths=[3])
    with pytest.raises(ValueError, match="lengths"):
        tiny.forward([[1, 2]], lengths=[1, 1])
    with pytest.raises(ValueError, match=r"cache: .*int16"):
        Cache(TINY, dtype=np.int16)
    for size in (0, -1):
        with pytest.raises(ValueError, match="capacity"):
            Cache(TINY, capacity=size)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    weights = random_weights(TINY)
    name = "model.layers.1.self_attn.o_proj.weight"
    weights[name][3, 5] = value
    with pytest.raises(ValueError, match=rf"layer 1: its output is not finite: NaN or infinity in {name}"):
        Model(TINY, weights).forward([1, 2])


def test_overflow_is_told_from_bad_weights() -> None:
    weights = random_weights(TINY)
    weights["model.layers.0.mlp.down_proj.weight"] *= np.float32(1e38)
    weights["model.layers.0.mlp.up_proj.weight"] *= np.float32(1e30)
    with pytest.raises(ValueError, match="overflow"):
        Model(TINY, weights).forward([1, 2])


def test_nan_in_the_gate() -> None:
    weights = random_weights(TINY, "model.layers.1.mlp.gate.")
    weights["weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        Gate(TINY, weights)(np.ones((1, TINY.hidden_size), np.float32))


def test_all_missing_and_misshapen_tensors_are_listed() -> None:
    weights: dict[str, Any] = dict(random_weights(TINY))
    del weights["model.norm.weight"], weights["model.layers.2.mlp.gate.weight"]
    with pytest.raises(ValueError, match="2 problems") as caught:
        Model(TINY, weights)
    assert "model.norm.weight: missing, expected shape (128,)" in str(caught.value)
    assert "model.layers.2.mlp.gate.weight: missing, expected shape (24, 128)" in str(caught.value)
    weights = dict(random_weights(TINY))
    weights["lm_head.weight"] = np.zeros((3, 128), np.float32)
    weights["model.norm.weight"] = np.zeros((128, 1), np.float32)
    with pytest.raises(ValueError, match="2 problems") as caught:
        Model(TINY, weights)
    assert "lm_head.weight: found shape (3, 128), the config says (192, 128)" in str(caught.value)


def test_config_that_contradicts_the_tensors() -> None:
    config = TINY.replace(n_routed_experts=30)
    with pytest.raises(ValueError, match=r"gate.weight: found shape \(24, 128\)|experts.24.*missing"):
        Model(config, random_weights(TINY))


ABSURD: dict[str, dict[str, int]] = {
    "layers": {"num_hidden_layers": 10**12},
    "fewer layers": {"num_hidden_layers": 3 * 10**5},
    "dense layers": {"num_hidden_layers": 2 * 10**6, "first_k_dense_replace": 10**18},
    "drafts": {"num_nextn_predict_layers": 10**12},
    "experts": {"n_routed_experts": 6 * 10**9},
    "experts of no layer": {"n_routed_experts": 6 * 10**9, "first_k_dense_replace": 3},
}


@pytest.mark.parametrize("numbers", ABSURD.values(), ids=ABSURD)
def test_absurd_numbers_of_layers_and_experts_are_refused(numbers: dict[str, int], tmp_path: Path) -> None:
    content = json.loads((GOLDEN / "tiny_v3_fp8" / "config.json").read_text()) | numbers
    with pytest.raises(ValueError, match="of at most 1048576 tensors"):
        Config.from_json(content)
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tiny_v3_fp8", folder)
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="of at most 1048576 tensors"):
        Model.from_checkpoint(folder)
    with pytest.raises(ValueError, match="of at most 1048576 tensors"):
        random_checkpoint(tmp_path / "made", Config.from_json(folder))
    assert not (tmp_path / "made").exists()


def test_layers_are_counted_before_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(config: Config) -> None:
        raise AssertionError("names are made of a number in a file")

    monkeypatch.setattr(model_module, "expected_shapes", named)
    config = TINY.replace(num_hidden_layers=10**4)
    with pytest.raises(ValueError, match=r"num_hidden_layers: found 10000 .* layer 4, 5, .* and 9985 more"):
        Model(config, random_weights(TINY))


def test_weights_of_another_kind() -> None:
    weights: dict[str, Any] = dict(random_weights(TINY, "model.layers.0.self_attn."))
    weights["o_proj.weight"] = weights["o_proj.weight"].astype(np.int32)
    attention = MLA(TINY, weights)
    with pytest.raises(TypeError, match=r"o_proj.weight: found dtype int32"):
        attention(np.ones((1, TINY.hidden_size), np.float32))


INPUTS: dict[str, tuple[Any, type[Exception]]] = {
    "float16": (np.ones((2, 128), np.float16), TypeError),
    "integers": (np.ones((2, 128), int), TypeError),
    "other channels": (np.ones((2, 127)), ValueError),
    "one axis": (np.ones(128), ValueError),
    "four axes": (np.ones((1, 1, 2, 128)), ValueError),
    "masked": (np.ma.masked_array(np.ones((2, 128))), TypeError),
}


@pytest.mark.parametrize(("x", "error"), INPUTS.values(), ids=INPUTS)
def test_layer_input(tiny: Model, x: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="x: found"):
        tiny.layers[0](x)


def test_layers_take_strided_readonly_and_swapped_input(tiny: Model) -> None:
    x = np.random.default_rng(0).normal(size=(4, 128))
    expected = tiny.layers[1](x)
    wide = np.zeros((8, 256))
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for variant in (wide[::2, ::2], np.asfortranarray(x), frozen, x[None][0]):
        assert np.array_equal(tiny.layers[1](variant), expected)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"sliding_window": 4}, "sliding_window"),
    "other model": ({"model_type": "llama"}, "model_type: found 'llama'"),
    "softmax gate": ({"scoring_func": "softmax"}, "scoring_func"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "tied": ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    "grouped keys": ({"num_key_value_heads": 2}, "num_key_value_heads: found 2, expected 4"),
    "linear scaling": ({"rope_scaling": {"type": "linear", "factor": 2}}, "found type 'linear'"),
    "odd yarn": ({"rope_scaling": {"type": "yarn", "factor": 2, "foo": 1}}, "foo"),
    "yarn of text": (
        {"rope_scaling": {"type": "yarn", "factor": "2", "original_max_position_embeddings": 4}},
        "factor",
    ),
    "groups": ({"n_group": 7}, "n_group: found 7, expected a divisor"),
    "too many experts": ({"num_experts_per_tok": 13}, "at most 12"),
    "odd rope": ({"qk_rope_head_dim": 7}, "even"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "float size": ({"hidden_size": 128.0}, "hidden_size"),
}


@pytest.mark.parametrize(("change", "message"), CONFIGS.values(), ids=CONFIGS)
def test_configs(change: dict[str, Any], message: str) -> None:
    published = json.loads((GOLDEN / "tiny_v3" / "config.json").read_text())
    if "num_attention_heads" in change:
        published.pop("num_key_value_heads")
    with pytest.raises(ValueError, match=message):
        Config.from_json(published | change)


def test_missing_fields_are_listed_together() -> None:
    with pytest.raises(ValueError, match=r"vocab_size: missing; hidden_size: missing"):
        Config.from_json({})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a":' * 5000])
def test_files_that_are_no_config(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config"):
        Config.from_json(tmp_path)


def test_checkpoint_without_config_and_with_a_wrong_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tiny_v3", folder)
    published = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(published | {"kv_lora_rank": 57}))
    with pytest.raises(
        ValueError, match=r"kv_a_layernorm.weight: found shape \(56,\), the config says \(57,\)"
    ):
        Model.from_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config.json"):
        Model.from_checkpoint(folder)
    assert Model.from_checkpoint(folder, config=TINY).forward([1]).shape == (1, 192)


SAMPLERS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": -1.0},
    "nan": {"temperature": float("nan")},
    "top_k": {"top_k": 0},
    "top_p": {"top_p": 0.0},
}


@pytest.mark.parametrize("settings", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"temperature|top_k|top_p"):
        Sampler(**settings)


def test_generation_settings(tiny: Model) -> None:
    with pytest.raises(ValueError, match="max_new_tokens"):
        tiny.generate([1], max_new_tokens=0)
    with pytest.raises(ValueError, match="speculative"):
        tiny.generate([[1], [2]], speculative=True)
    with pytest.raises(ValueError, match="speculative"):
        tiny.generate([1], speculative=True, temperature=1.0)
    with pytest.raises(ValueError, match="one sequence"):
        next(stream(tiny, [[1], [2]]))
    with pytest.raises(ValueError, match="depth"):
        tiny.mtp(np.zeros((1, 1, 128), np.float32), [[1]], depth=1)
    with pytest.raises(ValueError, match="names: found nonsense"):
        tiny.trace([1], ["nonsense"])
    with pytest.raises(TypeError, match="dtype"):
        Model(TINY, {}, dtype=np.float16)


def test_routing_input() -> None:
    with pytest.raises(ValueError, match="expected 0 to 23"):
        traffic([[24]], TINY)
    with pytest.raises(ValueError, match="divisor"):
        traffic([[1]], TINY, nodes=5)
    with pytest.raises(TypeError, match="routing"):
        traffic([[0.5]], TINY)
    with pytest.raises(ValueError, match="load"):
        update_bias(np.zeros(3), [1, 2])


def test_a_block_alone_checks_its_tensors() -> None:
    with pytest.raises(ValueError, match="layer 1: "):
        Block(TINY, random_weights(TINY, "model.layers.0."), layer=1)
