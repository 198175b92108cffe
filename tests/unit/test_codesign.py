"""Parts of `codesign`: figures, JSON, machines, families, schedules; bad input is one line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import codesign as cd
from dsv3_numerics.codesign import overlaps, tradeoffs
from dsv3_numerics.codesign.caches import FORMATS, chosen_format
from dsv3_numerics.codesign.errors import SENT_AS, measured_errors, read_errors, stored_errors
from dsv3_numerics.codesign.figures import TAGS, weakest
from dsv3_numerics.codesign.files import to_json
from dsv3_numerics.codesign.formats import COMMON, row_bytes
from dsv3_numerics.codesign.published import Row, evaluate, rows
from dsv3_numerics.experiments.combine import HIDDEN, bytes_of_a_row
from dsv3_numerics.model import Config, Model, Recipe, random_checkpoint, traffic
from dsv3_numerics.model.cache_formats import CacheFormat

ROOT = Path(__file__).parents[2]
LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
PARTS: dict[str, Callable[[], cd.Answer]] = {
    "kv": lambda: cd.kv("deepseek_v32", [1, 4096], memory=10**9),
    "flops": lambda: cd.flops("deepseek_v3", mode="decode"),
    "ep": lambda: cd.ep("deepseek_v3", check=True),
    "roofline": lambda: cd.roofline(
        "deepseek_v3", ep=144, redundant=32, batch=[1, 32, 128, 512], cache="fp8"
    ),
    "mtp": lambda: cd.mtp([0.85]),
    "routing": lambda: cd.routing("deepseek_v3", limit=4, tokens=2000),
    "eplb": lambda: cd.eplb(LOADS, replicas=16, groups=4, nodes=2, gpus=8),
    "pipeline": lambda: cd.pipeline(8, 20, forward=1, backward=2, weight=1, both=3),
    "overlap": lambda: cd.overlap([("c", 150), ("n", 60), ("c", 30), ("n", 120)], 20),
    "network counts": cd.network_counts,
    "network alltoall": lambda: cd.network_alltoall(fair=True, lost=1),
    "paper": cd.paper,
    "tradeoff": lambda: cd.tradeoff(vary=["dispatch", "combine"]),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_figure_has_a_tag_a_formula_and_a_source(part: str) -> None:
    answer = PARTS[part]()
    assert answer.part == part
    assert answer.figures
    assert answer.rows
    for figure in answer.figures:
        assert figure.tag in TAGS
        assert figure.source.strip()
        assert figure.how.strip()
    for row in answer.rows:
        assert set(answer.columns) <= set(row)


@pytest.mark.parametrize("part", PARTS)
def test_json_reads_back_and_files_are_written(part: str, tmp_path: Path) -> None:
    answer = PARTS[part]()
    told = json.loads(to_json(answer))
    assert {"part", "version", "inputs", "figures", "rows"} <= set(told)
    assert json.loads(to_json(answer)) == told
    assert [f["name"] for f in told["figures"]] == [f.name for f in answer.figures]
    report = answer.save(tmp_path / "out")
    assert json.loads((report.parent / "results.json").read_text()) == told
    assert len(list(csv.DictReader((report.parent / "results.csv").read_text().splitlines()))) == len(
        answer.rows
    )
    pictures = {file for file, _ in answer.plots.values()}
    assert {p.name for p in report.parent.glob("*.png")} == pictures
    assert all(f"]({file})" in report.read_text() for file in pictures)


def test_weakest_tag_wins() -> None:
    assert weakest("formula", "simulated") == "simulated"
    assert weakest("bound", "fitted", "formula") == "fitted"
    with pytest.raises(ValueError, match="tag: found 'guess'"):
        weakest("guess")


def test_given_efficiencies_make_a_bound_a_fit() -> None:
    answer = cd.roofline("deepseek_v3", ep=256, efficiency={"memory": 0.8})
    assert answer.figures[0].tag == "fitted"
    name = "decode tpot, batch 128"
    assert float(answer.value(name) or 0) > float(cd.roofline("deepseek_v3", ep=256).value(name) or 0)


# --- the paper ---


def test_the_paper_has_the_verdicts_that_are_stored() -> None:
    """The regression test: about a hundred numbers recomputed."""
    answer = cd.paper()
    assert answer.data["changed"] == []
    assert len(answer.rows) >= 90
    diffs = {row["what"] for row in answer.rows if row["verdict"] == "DIFF"}
    assert diffs == {
        "LLaMA over V3",
        "Qwen-72B, training a token",
        "LLaMA-405B, training a token",
        "Dragonfly, cost",
    }
    assert all(row.reason for row in rows() if row.verdict == "DIFF")


def test_a_changed_verdict_is_told() -> None:
    """A check that can fail."""
    row = Row("s", "w", "OK", printed="2.5", call="1 + 1")
    assert row.judged(row.recomputed()) == "DIFF"
    assert Row("s", "w", "OK", printed="67", call="67.9", truncated=True).judged(67.9) == "OK"
    assert Row("s", "w", "OK", printed="67", call="68", truncated=True).judged(68.0) == "DIFF"
    assert Row("s", "w", "OK", printed="4.66").judged(4.6649) == "OK"
    assert Row("s", "w", "OK", printed="4.66").judged(4.6651) == "DIFF"


@pytest.mark.parametrize("text", ["__import__('os')", "kv.__class__", "[1]", "lambda: 1", "1 if 2 else 3"])
def test_only_arithmetic_is_evaluated(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        evaluate(text)


# --- sizes and formats agree with the rest of the package ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("fp8", "flashmla"), *((name, name) for name in ("logfmt8", "logfmt10", "bf16", "float32"))],
)
@pytest.mark.parametrize(("rank", "rope"), [(512, 64), (128, 32), (192, 16)])
def test_cache_bytes_are_those_of_the_models_cache(ours: str, theirs: str, rank: int, rope: int) -> None:
    shape = cd.read_shape("deepseek_v3")
    attention = type(shape.layers[0].attention)(16, None, rank, 64, rope, 64)  # type: ignore[call-arg, arg-type]
    found = CacheFormat.of(theirs, rank, rope)
    assert chosen_format(shape, ours).record(attention) == found.width * found.dtype.itemsize


def test_any_scheme_of_a_recipes_cache_can_be_counted() -> None:
    assert cd.kv_bytes(cd.read_shape("deepseek_v3"), 1, "mxfp4") == 61 * 400


@pytest.mark.parametrize("name", SENT_AS)
def test_row_bytes_are_those_of_the_combine_experiment(name: str) -> None:
    assert row_bytes(SENT_AS[name], HIDDEN) == bytes_of_a_row(name)


@pytest.mark.parametrize("way", ["dispatch", "combine", "cache"])
def test_common_formats_are_recipes_formats(way: str) -> None:
    for name in COMMON[way]:
        Recipe.preset("deepseek_v3").replace(**{way: name})


def test_routing_agrees_with_the_models_traffic() -> None:
    config = Config.preset("deepseek_v3")
    rng = np.random.default_rng(0)
    indices = np.argsort(rng.random((500, 256)), axis=1)[:, :8]
    told, ours = traffic(indices, config), cd.routing("deepseek_v3", trace=indices).rows[-1]
    assert ours["nodes_mean"] * 500 == pytest.approx(told.dispatched)
    assert ours["saved"] == pytest.approx(told.saved)
    assert ours["imbalance"] == pytest.approx(told.imbalance)


def test_stored_errors_are_those_of_the_docs() -> None:
    """The package's copy of docs/experiments/combine."""
    with (ROOT / "docs" / "experiments" / "combine" / "results.csv").open() as file:
        found = {
            (r["data"], r["sent_as"]): float(r["relative_error"])
            for r in csv.DictReader(file)
            if r["sent_as"] in SENT_AS
        }
    for (data, name), error in found.items():
        assert stored_errors(data).values[(tradeoffs.canonical("combine", SENT_AS[name]),)] == error


# --- mistakes that others make ---


def test_mla_is_not_counted_as_gqa() -> None:
    """Keys and values of all heads would take 57 times as much."""
    expanded = 61 * 2 * 128 * 128 * 2
    assert expanded / cd.kv_bytes(cd.read_shape("deepseek_v3"), 1) == pytest.approx(56.9, abs=0.1)


def test_windows_and_chunks_are_kept_alone() -> None:
    base = {
        "model_type": "llama4_text", "num_hidden_layers": 8, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "intermediate_size": 32,
        "intermediate_size_mlp": 64, "num_local_experts": 4, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2, "attention_chunk_size": 100,
    }  # fmt: skip
    shape = cd.read_shape(base)
    assert cd.kv_bytes(shape, 1000) == (6 * 100 + 2 * 1000) * 4 * 2 * 16
    assert [type(layer.mlp).__name__ for layer in shape.layers] == ["Dense", "Moe"] * 4
    assert shape.layers[1].mlp.shared == 1  # type: ignore[union-attr]


def test_qwen_ships_a_window_that_it_does_not_use() -> None:
    base = {
        "model_type": "qwen2", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "intermediate_size": 32, "sliding_window": 10,
        "use_sliding_window": False,
    }  # fmt: skip
    assert cd.kv_bytes(cd.read_shape(base), 100) == 4 * 100 * 4 * 2 * 16
    used = base | {"use_sliding_window": True, "max_window_layers": 3}
    assert cd.kv_bytes(cd.read_shape(used), 100) == (3 * 100 + 10) * 4 * 2 * 16


def test_head_dim_is_not_hidden_over_heads() -> None:
    base = {
        "model_type": "qwen3_moe", "num_hidden_layers": 4, "hidden_size": 4096, "num_attention_heads": 64,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 100, "intermediate_size": 32,
        "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    assert cd.kv_bytes(cd.read_shape(base), 1) == 4 * 4 * 4 * 128


def test_shared_indexers_keep_no_keys() -> None:
    content = json.loads((ROOT / "python/dsv3_numerics/codesign/data/models/deepseek_v32.json").read_text())
    half = content | {"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared"] * 30 + ["full"]}
    full = cd.kv_bytes(cd.read_shape(content), 1) - cd.kv_bytes(cd.read_shape("deepseek_v3"), 1)
    assert (
        cd.kv_bytes(cd.read_shape(half), 1) == cd.kv_bytes(cd.read_shape("deepseek_v3"), 1) + full // 61 * 31
    )


def test_indexers_by_pattern_and_by_frequency() -> None:
    """Other spellings of `indexer_types`, as transformers reads them."""
    content = json.loads((ROOT / "python/dsv3_numerics/codesign/data/models/deepseek_v32.json").read_text())

    def own(**fields: Any) -> list[int]:
        shape = cd.read_shape(content | {"model_type": "glm_moe_dsa"} | fields)
        return [i for i, layer in enumerate(shape.layers) if not layer.attention.index.shared]  # type: ignore[union-attr]

    assert own(index_topk_pattern="FSSS" * 15 + "F") == list(range(0, 61, 4))
    assert own(index_topk_freq=4) == [0, *range(1, 61, 4)]
    assert own(layer_types=["indexed_attention"] * 61) == list(range(61))


def test_v4_as_transformers_saves_it() -> None:
    """Layer types instead of ratios."""
    content = json.loads(
        (ROOT / "python/dsv3_numerics/codesign/data/models/deepseek_v4_pro.json").read_text()
    )
    names = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    ratios = content.pop("compress_ratios")[: content["num_hidden_layers"]]
    saved = content | {
        "layer_types": [names[r] for r in ratios],
        "mlp_layer_types": ["hash_moe"] * 3 + ["moe"] * 58,
    }
    assert cd.read_shape(saved).layers == cd.read_shape("deepseek_v4_pro").layers


def test_mtp_layers_are_counted_only_when_asked_for() -> None:
    shape = cd.read_shape("deepseek_v3")
    assert any("--mtp" in note for note in shape.notes)
    assert len(shape.with_mtp().layers) == 62
    assert cd.kv_bytes(shape.with_mtp(), 1) == 62 * 1152
    assert shape.with_mtp().total - shape.total == pytest.approx(11.6e9, rel=0.01)
    with pytest.raises(ValueError, match=r"--mtp: qwen2\.5_72b has no layers"):
        cd.kv("qwen2.5_72b", mtp=True)


def test_text_configs_are_unwrapped() -> None:
    inner = json.loads((ROOT / "python/dsv3_numerics/codesign/data/models/kimi_k2.json").read_text())
    shape = cd.read_shape({"model_type": "kimi_k25", "text_config": inner})
    assert shape.total == cd.read_shape("kimi_k2").total
    assert any("images" in note for note in shape.notes)


# --- machines ---


def test_every_machine_has_a_source_and_its_figures_are_positive() -> None:
    found = cd.machines()
    assert {"h800", "h100", "h200", "h20", "b200", "gb200", "paper_nvl72"} <= set(found)
    for row in found.values():
        assert len(row.source) > 10
        assert row.network
        assert row.latency == 3.7e-6


def test_a_missing_peak_refuses_the_operation() -> None:
    with pytest.raises(ValueError, match="h800 has no fp4, which q_a needs"):
        cd.roofline("deepseek_v3", "h800", linears="fp4", ep=256)
    assert cd.roofline("deepseek_v3", "b200", linears="fp4", ep=256).rows
    with pytest.raises(ValueError, match="paper_nvl72 has no capacity"):
        cd.roofline("deepseek_v3", "paper_nvl72", ep=256)


def test_a_users_machine(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[mine]\nnetwork = 25e9\nsource = "a guess"\n[other]\nnetwork = 1e9\nsource = "x"\n')
    assert cd.read_hardware(f"{file}:mine").network == 25e9
    with pytest.raises(ValueError, match="found 2 machines, expected"):
        cd.read_hardware(str(file))
    changed = cd.read_hardware("h800", ["network=100e9", "scale_up_gpus=4"])
    assert (changed.network, changed.scale_up_gpus) == (100e9, 4)
    assert "network=100e9 as given" in changed.source


# --- schedules ---


def test_closed_forms_that_do_not_hold_say_what_they_assume() -> None:
    notes = cd.pipeline(8, 20, forward=1, backward=2.2, weight=1, both=2.8).notes
    assert any("DualPipe: (PP/2-1)(F&B+B-3W) = 6 is not attained; it assumes" in note for note in notes)
    notes = cd.pipeline(8, 16, forward=1, backward=1.63, weight=1, both=2.63).notes
    assert any("is exceeded; it assumes" in note for note in notes)
    notes = cd.pipeline(8, 20, forward=1, backward=2, weight=1, both=1.5).notes
    assert any("below" in note for note in notes)


def test_a_hop_makes_a_pipeline_longer() -> None:
    spans = [cd.timed("1F1B", 4, 8, cd.Times(1, 2, 1, 3, hop)).span for hop in (0.0, 0.5)]
    assert spans[1] > spans[0]


def test_stages_of_a_model_go_into_overlap() -> None:
    stages = cd.stages_of("deepseek_v3", ep=144, redundant=32)
    assert "".join(resource for resource, _ in stages) == "cncn"
    assert overlaps.period_of(stages, 10) >= overlaps.lower_bound(stages) * (1 - 1e-9)


# --- our own model ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    random_checkpoint(folder, Config.preset("tiny"), seed=0)
    return folder


def test_traces_of_our_gate(tiny: Path) -> None:
    model, ids, source = cd.open_model(tiny, tokens=40)
    chosen = cd.chosen_experts(model, ids)
    assert chosen.shape == (2, 40, 5)
    assert "40 random tokens" in source
    loads = cd.expert_loads(model, ids)
    assert loads.sum(axis=1).tolist() == [200, 200]
    config = {"model_type": "deepseek_v3", **model.config.to_dict()}
    row = cd.routing(config, 6, trace=chosen, limit=3, tokens=500).rows[-1]
    assert row["nodes_max"] <= 3
    assert cd.eplb(loads, replicas=32, groups=6, nodes=2, gpus=4).rows


def test_errors_of_our_own_forward(tiny: Path) -> None:
    model, ids, source = cd.open_model(tiny, tokens=24)
    options = {"combine": ("bf16", "e5m6:1x128:ue8m0", "logfmt8"), "cache": ("bf16", "fp8")}
    table = measured_errors(model, ids, Recipe.preset("deepseek_v3"), options, source=source)
    assert table.covers == ("combine", "cache")
    assert len(table.values) == 6
    assert all(0 < error < 1 for error in table.values.values())
    answer = cd.tradeoff(errors=table)
    assert {row["cache"] for row in answer.rows if row["error"] is not None} == {"bf16", "fp8"}
    assert all(row["error_of"] == table.of for row in answer.rows)


def test_errors_of_sensitivity_are_of_whole_recipes(tiny: Path, tmp_path: Path) -> None:
    from dsv3_numerics import sensitivity

    model = Model.from_checkpoint(tiny)
    ids = sensitivity.random_ids(model, 8)
    files = []
    for combine in ("bf16", "logfmt8"):
        recipe = Recipe.preset("deepseek_v3").replace(combine=combine)
        found = sensitivity.run(model, ids, recipe, only=["combine"], perturbations=0)
        found.settings["source"] = "tiny"
        files.append(found.save(tmp_path / combine).parent)
    table = read_errors(files)
    assert len(table.values) == 2
    answer = cd.tradeoff(errors=table, vary=["combine"])
    assert sum(row["error"] is not None for row in answer.rows) == 2
    other = sensitivity.run(model, ids + 1, "deepseek_v3", only=["combine"], perturbations=0)
    files.append(other.save(tmp_path / "other").parent)
    with pytest.raises(ValueError, match="different models, tokens or recipes"):
        read_errors(files)


def test_a_front_keeps_equal_rows_and_drops_what_is_beaten() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.0), (2.0, 3.0), (4.0, 1.0)]
    assert tradeoffs.front(points) == [True, True, True, True, False, False]


def test_uncovered_choices_are_compared_apart() -> None:
    """An error of combine alone says nothing of a cache: a smaller one must not win for free."""
    answer = cd.tradeoff(vary=["combine", "cache"])
    assert any("does not cover cache" in note for note in answer.notes)
    for cache in COMMON["cache"]:
        assert any(row["on_front"] for row in answer.rows if row["cache"] == cache)


def test_coding_adds_a_band() -> None:
    rows_ = cd.tradeoff(coding=(0.5, 1.0)).rows
    for row in rows_:
        if "logfmt" in row["combine"]:
            assert row["us"] < row["us_low"] < row["us_high"]
        else:
            assert row["us"] == row["us_low"] == row["us_high"]


# --- bad input ---

V3 = "deepseek_v3"
STAGES: Any = [("c", 1.0)]
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: cd.kv(V3, [0]), "tokens: found 0, expected 1 to"),
    (lambda: cd.kv(V3, [1.5]), "tokens: found 1.5, expected an integer"),  # type: ignore[list-item]
    (lambda: cd.kv("llama3.1_405b", cache=["logfmt8"]),
        "cache: found 'logfmt8', expected one of bf16, float32, fp8, nvfp4"),
    (lambda: cd.kv("llama3.1_405b", cache=["fp8_flat"]), "cache: found 'fp8_flat'"),
    (lambda: cd.kv("deepseek_v32", cache=["fp8"], index="int8"),
        "index: found 'int8', expected one of bf16, fp8, fp4"),
    (lambda: cd.kv(V3, memory=0), "memory: found 0"),
    (lambda: cd.flops(V3, 0), "context: found 0"),
    (lambda: cd.flops(V3, mode="trian"),
        "mode: found 'trian', expected one of train, prefill, decode (did you mean train?)"),
    (lambda: cd.flops("deepseek_v4_pro"), "training of sparse attention is not defined here"),
    (lambda: cd.flops("deepseek_v41_flash", mode="decode"), "cannot count the weights of deepseek_v41"),
    (lambda: cd.ep(V3, remote=1.5), "remote: found 1.5"),
    (lambda: cd.ep(V3, tokens=0), "tokens: found 0"),
    (lambda: cd.ep(V3, changes=["network=0"]), "--set network: found '0', expected a positive number"),
    (lambda: cd.ep(V3, changes=["network=nan"]), "--set network: found 'nan'"),
    (lambda: cd.ep(V3, changes=["netwrok=1"]), "--set: found 'netwrok', expected one of"),
    (lambda: cd.ep(V3, combine="fp8_bare"), "combine: found 'fp8_bare'"),
    (lambda: cd.ep(V3, combine="logfmt10:deepep"), "whose rows have no size of their own"),
    (lambda: cd.ep(V3, dispatch="e4m3:128x128:f32"), "dispatch: found 'e4m3:128x128:f32': groups of 128x128"),
    (lambda: cd.ep(V3, dispatch="nope"), "dispatch: scheme 'nope'"),
    (lambda: cd.ep(V3, layers="half"), "layers: found 'half', expected all, moe or a number"),
    (lambda: cd.ep("qwen2.5_72b"), "has no experts"),
    (lambda: cd.ep_step(7168, dispatch="bf16", combine="bf16", bandwidth=math.nan), "bandwidth: found nan"),
    (lambda: cd.ep_step(7168, dispatch="bf16", combine="bf16", bandwidth=-1.0), "bandwidth: found -1"),
    (lambda: cd.roofline(V3, batch=[0]), "batch: found 0"),
    (lambda: cd.roofline(V3, ep=100), "256 + 0 experts found, expected a multiple of 100 GPUs"),
    (lambda: cd.roofline(V3, ep=8, efficiency={"memroy": 1.0}), "efficiency: found 'memroy'"),
    (lambda: cd.roofline(V3, ep=8, efficiency={"memory": 1.2}), "efficiency memory: found 1.2"),
    (lambda: cd.roofline("deepseek_v4_pro", cache="v4_fp8"),
        "operations of compressed attention (V4) are not defined here"),
    (lambda: cd.mtp([1.1]), "accept: found 1.1"),
    (lambda: cd.mtp([-0.1]), "accept: found -0.1"),
    (lambda: cd.mtp([0.8], 0), "depth: found 0"),
    (lambda: cd.mtp([0.8], cost=-1.0), "cost: found -1.0"),
    (lambda: cd.mtp([0.8, 0.7], 3), "accept: found 2 values, expected 1 or 3"),
    (lambda: cd.routing(V3, 7), "nodes: found 7, expected a divisor of 256 experts"),
    (lambda: cd.routing(V3, limit=9), "limit: found 9"),
    (lambda: cd.routing(V3, trace=[[0, 256]]), "routing: found 0 to 256, expected 0 to 255"),
    (lambda: cd.routing(V3, trace=[[3, 3]]), "token 0 has an expert twice"),
    (lambda: cd.routing(V3, trace=[[0.0, 1.0]]), "found float64"),
    (lambda: cd.routing("qwen2.5_72b"), "has no experts to route to"),
    (lambda: cd.balance([1, 2, 3, 4], replicas=3, gpus=1), "replicas: found 3, expected at least 4"),
    (lambda: cd.balance([1, 2, 3, 4], replicas=5, gpus=2), "a multiple of 2 GPUs"),
    (lambda: cd.balance([1, 2, 3, 4], replicas=6, gpus=3, nodes=2),
        "gpus: found 3, expected a multiple of 2 nodes"),
    (lambda: cd.balance([1, math.nan], replicas=2, gpus=1), "load: found NaN, infinite or negative"),
    (lambda: cd.balance([1, -1], replicas=2, gpus=1), "load: found NaN, infinite or negative"),
    (lambda: cd.balance(["a", "b"], replicas=2, gpus=1), "load: found no numbers"),
    (lambda: cd.pipeline(8, 21, forward=1, backward=2, weight=1, both=3),
        "chunks: found 21, expected an even number"),
    (lambda: cd.pipeline(8, 14, forward=1, backward=2, weight=1, both=3),
        "chunks: found 14, expected at least 16"),
    (lambda: cd.pipeline(7, 20, forward=1, backward=2, weight=1, both=3),
        "stages: found 7, expected an even number"),
    (lambda: cd.pipeline(8, 20, forward=1, backward=2, weight=3, both=3),
        "weights: found 3, expected at most the full backward"),
    (lambda: cd.pipeline(8, 20, forward=-1, backward=2, weight=1, both=3), "forward: found -1"),
    (lambda: cd.pipeline(8, 20, forward=1, backward=2, weight=1, both=3, schedules=["GPipe"]),
        "schedule: found 'GPipe'"),
    (lambda: cd.pipeline(4096, 1 << 20, forward=1, backward=2, weight=1, both=3),
        "expected at most 40000 together"),
    (lambda: cd.overlap([], 20), "stages: found none"),
    (lambda: cd.overlap(STAGES, 0), "layers: found 0"),
    (lambda: cd.overlap([("c", -1.0)], 5), "stages: found -1.0"),
    (lambda: cd.overlap([("c", 0.0)], 5), "stages: found only durations of 0"),
    (lambda: cd.parse_stages("c:1,x:2"), "stages: found 'x:2', expected c:TIME or n:TIME"),
    (lambda: cd.network_counts(63), "ports: found 63, expected an even number"),
    (lambda: cd.network_counts(prices=(1.0,)), "prices: found 1 numbers"),
    (lambda: cd.network_alltoall(4, 4, 4, dead=4), "dead: found 4, expected fewer than the 4 spines"),
    (lambda: cd.network_alltoall(1, 1, 1), "hosts: found 1 in all"),
    (lambda: cd.network_alltoall(1, 4, 4, pattern="shift"), "leaves: found 1"),
    (lambda: cd.network_alltoall(routing="emcp"), "routing: found 'emcp'"),
    (lambda: cd.network_alltoall(lost=8), "lost: found 8"),
    (lambda: cd.network_alltoall(64, 64, 8), "flows found, expected at most"),
    (lambda: cd.paper("table 9"), "section: found 'table 9', expected one of table 1"),
    (lambda: cd.tradeoff("qwen2.5_72b"), "is no model of MLA with experts"),
    (lambda: cd.tradeoff(vary=["weights"]), "vary: found 'weights'"),
    (lambda: cd.tradeoff(errors=stored_errors("nromal")), "data: found 'nromal'"),
    (lambda: cd.tradeoff(ep=100), "ep: found 100, expected a divisor of 256 + 0 experts"),
    (lambda: cd.tradeoff(coding=(1.0, 0.5)), "coding: found 1:0.5, expected LOW:HIGH"),
    (lambda: cd.read_hardware("h900"), "hardware: found 'h900', expected one of h800"),
    (lambda: cd.read_hardware("none.toml"), "hardware: found 'none.toml', no such file"),
    (lambda: cd.read_shape("no-such-model"), "config: found 'no-such-model', no such file; presets are"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    text = str(error.value)
    assert message in text
    assert "\n" not in text


def test_latency_is_the_machines() -> None:
    """Table 5's 3.7 us a transfer, unless the machine says otherwise."""
    plain, late = cd.ep(V3).value("tpot"), cd.ep(V3, latency=True).value("tpot")
    assert isinstance(plain, float)
    assert late == pytest.approx(plain + 61 * 2 * 2 * 3.7e-6)


def test_weights_that_do_not_fit_leave_no_users() -> None:
    answer = cd.roofline(V3, ep=1)
    assert answer.value("users that fit") == 0
    assert any("do not fit: no users" in note for note in answer.notes)


def test_certain_drafts_are_all_accepted() -> None:
    assert cd.tokens_a_step([1.0], 4) == 5.0


def test_no_load_leaves_the_order() -> None:
    found = cd.balance([0, 0, 0], replicas=6, gpus=3)
    assert found.experts == [0, 1, 2, 0, 1, 2]
    assert found.max_over_mean == 1.0


def test_rows_and_formats_have_sources() -> None:
    assert all(row.source for table in FORMATS.values() for row in table)
    assert all(row.section and row.what for row in rows())
