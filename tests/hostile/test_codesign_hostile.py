"""Configs, machines, traces, loads and error files from outside: understood, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import codesign as cd
from dsv3_numerics.codesign.errors import read_errors
from dsv3_numerics.codesign.reader import presets

MODELS = Path(cd.__file__).parent / "data" / "models"


def config(name: str = "deepseek_v3", **changes: Any) -> dict[str, Any]:
    content = json.loads((MODELS / f"{name}.json").read_text())
    return {k: v for k, v in (content | changes).items() if v is not ...}


@pytest.mark.parametrize("value", [0, -1, True, False, 1e9, 1_000_000_000, 2.5, "7168", [7168], {}])
@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "n_routed_experts", "kv_lora_rank"])
def test_sizes_that_are_none(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}: found") as error:
        cd.read_shape(config(**{field: value}))
    assert "\n" not in str(error.value)


def test_all_missing_fields_are_told_at_once() -> None:
    with pytest.raises(
        ValueError, match="missing fields: hidden_size, vocab_size, num_attention_heads, kv_lora"
    ):
        cd.read_shape({"model_type": "deepseek_v3", "num_hidden_layers": 2})
    with pytest.raises(ValueError, match="missing fields: model_type"):
        cd.read_shape({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["linear_attention"] * 80}, "cannot count layer type linear_attention"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types: found"),
        ({"linear_attn_config": {"kda_layers": [1]}}, "cannot count layer type linear_attention"),
        ({"hybrid_override_pattern": "M-M*"}, "cannot count layer type mamba"),
        ({"full_attention_interval": 4}, "cannot count layer type linear_attention"),
        ({"model_type": "mamba2"}, "model_type: found 'mamba2', cannot count it; known are deepseek_v2"),
        ({"model_type": ["qwen2"]}, "model_type: found"),
        ({"num_key_value_heads": 7}, "expected a divisor of num_attention_heads (64)"),
        ({"num_attention_heads": 60, "num_key_value_heads": 60}, "no multiple of 60 heads"),
        ({"text_config": [1]}, "text_config: found list, expected an object"),
        ({"layer_types": "full"}, "layer_types: found 'full'"),
        ({"layer_types": ["sliding_attention"] * 80}, "missing fields: sliding_window"),
        ({"num_hidden_layers": 20_000}, "expected at most 10000"),
        ({"num_nextn_predict_layers": 5_000}, "expected at most 100"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: found 'no', expected true or false"),
    ],
)
def test_layers_and_families_that_cannot_be_counted(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        cd.read_shape(config("qwen2.5_72b", **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek_v3", {"num_experts_per_tok": 300}, "expected at most 256, the experts"),
        ("deepseek_v32", {"q_lora_rank": None}, "the indexer needs the latent of the query"),
        ("deepseek_v32", {"index_topk": ...}, "missing fields: index_topk"),
        (
            "deepseek_v32",
            {"indexer_types": ["half"] * 61},
            "indexer_types: found 'half', expected full or shared",
        ),
        (
            "deepseek_v4_pro",
            {"compress_ratios": [8] * 62},
            "compress_ratios: found 8, expected one of 0, 4, 128",
        ),
        ("deepseek_v4_pro", {"compress_ratios": [4]}, "compress_ratios: found [4], expected 61 values (int)"),
        ("deepseek_v4_pro", {"compress_ratios": ...}, "missing fields: compress_ratios"),
        ("deepseek_v41_flash", {"kv_source_layer_ids": "all"}, "kv_source_layer_ids: found 'all'"),
        (
            "deepseek_v3",
            {"mlp_layer_types": ["fat"] * 61},
            "mlp_layer_types: found 'fat', expected dense or sparse",
        ),
    ],
)
def test_fields_of_families(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        cd.read_shape(config(name, **changes))
    assert message in str(error.value)


def test_a_rank_that_has_no_blocks_of_16() -> None:
    shape = cd.read_shape(config(kv_lora_rank=500))
    with pytest.raises(ValueError, match="a rank of 500 found, expected a multiple of 16"):
        cd.kv_bytes(shape, 1, "nvfp4")
    assert "nvfp4" not in [row["format"] for row in cd.kv(config(kv_lora_rank=500)).rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "found list, expected an object"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_files_that_are_no_config(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        cd.read_shape(tmp_path)


def test_a_config_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(ValueError, match="expected at most"):
        cd.read_shape(tmp_path)


@pytest.mark.parametrize("source", [None, 3, b"deepseek_v3"])
def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(TypeError, match="config: found"):
        cd.read_shape(source)


def test_every_preset_is_read_and_says_where_it_is_from() -> None:
    assert len(presets()) >= 10
    for name in presets():
        assert json.loads((MODELS / f"{name}.json").read_text())["source"]
        assert cd.read_shape(name).layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("", "found no table"),
        ("network = 1e9", "expected a table"),
        ("[a]\nnetwork = 1e9", "no source"),
        ('[a]\nsource = "s"\nspeed = 1', "unknown speed"),
        ('[a]\nsource = "s"\nnetwork = -1', "network: found -1"),
        ('[a]\nsource = "s"\nnetwork = nan', "network: found nan"),
        ('[a]\nsource = "s"\nnetwork = true', "network: found True, expected a number"),
        ('[a]\nsource = "s"\nscale_up_gpus = 7.5', "scale_up_gpus: found 7.5, expected an integer"),
        ('[a]\nsource = "s"\ntag = "sure"', "tag: found 'sure'"),
        ('[a]\nsource = "s"', "a has no network, which dispatch needs"),
    ],
)
def test_machines_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        cd.ep("deepseek_v3", str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"hello"])
def test_traces_that_are_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "trace.npy"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="routing: cannot read"):
        cd.read_trace(file)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "trace.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot read"):
        cd.read_trace(tmp_path / "trace.npy")


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", "1,2\n3"), ("a.csv", "a,b"), ("a.json", "{"), ("a.json", '{"a": 1}')]
)
def test_loads_that_are_none(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match="load: "):
        cd.eplb(cd.read_load(file), replicas=8, gpus=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot read"),
        ("a.json", '{"experiment": "drift", "rows": []}', "is of another kind"),
        ("a.json", "[]", "is of another kind"),
        (
            "a.json",
            '{"experiment": "combine", "rows": [{"sent_as": "BF16", "data": "normal"}]}',
            "an error of None",
        ),
        ("a.json", '{"recipe": {}, "rows": []}', "has no error of its recipe's logits"),
        ("a.csv", "data,sent_as,relative_error\nnormal,BF16,-1\n", "an error of '-1'"),
        (
            "a.csv",
            "data,sent_as,relative_error\nlaplace,BF16,0.1\n",
            "data: found 'normal', expected one of laplace",
        ),
    ],
)
def test_error_files_of_another_kind(name: str, text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_errors([file])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_errors_of_no_format_that_is_traded(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("data,sent_as,relative_error\nnormal,something,0.5\n")
    with pytest.raises(ValueError, match="none of 4 rows has an error"):
        cd.tradeoff(errors=read_errors([file]))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["kv", "no-such"], 1, "no such file; presets are"),
        (["kv", "deepseek_v3", "--tokens", "x"], 1, "tokens: found 'x', expected whole numbers"),
        (["kv", "deepseek_v3", "--tokens", "0"], 1, "tokens: found 0"),
        (["kv"], 2, "Missing argument 'CONFIG'"),
        (["ep", "deepseek_v3", "--recipe", "fp9"], 1, "recipe: found 'fp9'"),
        (["roofline", "deepseek_v3", "--efficiency", "memory=fast"], 1, "efficiency memory: found 'fast'"),
        (["roofline", "deepseek_v3", "--batch", "8:1"], 1, "batch: found '8:1'"),
        (["mtp"], 2, "give --accept or --from"),
        (["mtp", "--accept", "high"], 1, "accept: found 'high', expected numbers"),
        (["mtp", "--from", "none.json"], 1, "from: cannot read none.json"),
        (["routing"], 2, "give CONFIG, --model or --demo"),
        (["routing", "deepseek_v3", "--routing", "none.npy"], 1, "routing: cannot read none.npy"),
        (["eplb", "--replicas", "8"], 2, "give one of --load, --model, --demo"),
        (["eplb", "--replicas", "8", "--load", "none.csv"], 1, "none.csv"),
        (["overlap"], 2, "give --stages or --from"),
        (["overlap", "--stages", "c:1", "--layers", "0"], 1, "layers: found 0"),
        (["overlap", "--from", "deepseek_v3"], 1, "ep: found 1, expected at least 2 GPUs"),
        (["paper", "appendix"], 1, "section: found 'appendix'"),
        (["tradeoff", "--coding", "half"], 1, "coding: found 'half'"),
        (["tradeoff", "--errors", "none.json"], 1, "errors: found 'none.json', no such file"),
        (["tradeoff", "--recipe", "fp9"], 1, "recipe: found 'fp9'"),
        (["kvv"], 2, "No such command 'kvv'"),
        (["kv", "deepseek_v3", "--out", "file"], 1, "--out: cannot write into file"),
    ],
)
def test_the_command_ends_in_one_line(
    args: list[str], code: int, message: str, refused: Callable[..., None]
) -> None:
    Path("file").write_text("")
    refused("codesign", *args, code=code, message=message)
