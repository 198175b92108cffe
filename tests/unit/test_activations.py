"""The study of activations: every input once, the figures those of the same arrays, and what is written."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import call
from dsv3_numerics import study
from dsv3_numerics.model import Config, Model, random_weights
from dsv3_numerics.study.activations import KINDS, kind_of, operations

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny_v3_fp8"
IDS = np.arange(24).reshape(2, 12)
SCHEMES = ["e4m3:1x128:f32", "e4m3:tensor:f32", "mxfp4"]

# Inputs of an operation, by the name under which `Model.trace` has it.
TRACED = {
    "layer0.q_a_proj": "layer0.attn_norm",
    "layer1.o_proj": "layer1.heads",
    "layer0.gate_proj": "layer0.ffn_norm",
    "layer2.dispatch": "layer2.ffn_norm",
    "lm_head": "final_norm",
}


@pytest.fixture(scope="module")
def model() -> Model:
    config = Config.preset("tiny")
    return Model(config, random_weights(config), dtype=np.float64)


@pytest.fixture(scope="module")
def found(model: Model) -> study.Study:
    return study.run_activations(model, IDS, SCHEMES)


def test_every_distinct_input_once(found: study.Study, model: Model) -> None:
    names = [tensor.name.removesuffix(" input") for tensor in found.tensors]
    unused = set(operations(model.config)) - set(names)
    assert all(re.fullmatch(r"layer[12]\.experts\.\d+\.down_proj", name) for name in unused)
    assert names == [name for name in operations(model.config) if name not in unused]
    assert [tensor.kind for tensor in found.tensors] == [kind_of(name) for name in names]
    assert set(found.kinds) == set(KINDS)


def test_what_is_left_out_is_the_input_of_another(model: Model) -> None:
    """Inputs of linear layers that have no name of their own hold the rows of one that has."""
    known: dict[str, Any] = {}
    other: list[tuple[str, Any]] = []

    def watch(done: Any) -> None:
        name = done.operation.name
        if kind_of(name) is not None:
            known[name] = done.inputs[0]
        elif done.operation.kind == "linear":
            other.append((name, done.inputs[0]))

    model.forward(IDS, absorbed=False, hook=watch)
    for name, x in other:
        layer, _, rest = name.partition(".")
        source = "q_a_proj" if rest.startswith("kv_a") else "gate_proj" if "." not in rest else "dispatch"
        rows = known[f"{layer}.{source}"].reshape(-1, x.shape[-1])
        assert {row.tobytes() for row in x.reshape(-1, x.shape[-1])} <= {row.tobytes() for row in rows}, name


def test_routed_rows_are_those_of_the_tokens_sent(found: study.Study) -> None:
    config = Config.preset("tiny")
    rows = [t.size // t.shape[-1] for t in found.tensors if t.name.startswith("layer2.experts.")]
    assert sum(rows) == IDS.size * config.num_experts_per_tok


@pytest.mark.parametrize("operation", TRACED)
def test_figures_are_those_of_the_traced_array(operation: str, found: study.Study, model: Model) -> None:
    x = model.trace(IDS, [TRACED[operation]], absorbed=False)[TRACED[operation]]
    for scheme in SCHEMES:
        assert found.metrics(f"{operation} input", scheme) == study.measure(x, scheme)


def test_totals_of_kinds_add_up(found: study.Study) -> None:
    parts = [found.totals(kind) for kind in found.kinds]
    for i, total in enumerate(found.totals()):
        assert sum(part[i].pooled.count for part in parts) == total.pooled.count
        assert min(part[i].worst_sqnr_db for part in parts) == total.worst_sqnr_db
    assert found.totals("no such kind") == []


def test_a_study_of_weights_has_no_kinds() -> None:
    assert study.run({"w": np.eye(4)}, ["bf16"]).kinds == ()


def test_operations_are_selected_by_globs(model: Model) -> None:
    some = study.run_activations(
        model, IDS, ["bf16"], include=["layer*.o_proj", "*.down_proj"], exclude=["*experts*", "layer2.*"]
    )
    assert [t.name for t in some.tensors] == [
        f"{name} input" for name in ("layer0.o_proj", "layer0.down_proj", "layer1.o_proj")
    ]


def test_progress_ends_at_all_layers(model: Model) -> None:
    calls: list[tuple[str, float, float]] = []
    study.run_activations(model, IDS, ["bf16"], progress=lambda *call: calls.append(call))
    layers = len(model.layers)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert {total for _, _, total in calls} == {layers}
    assert calls[0] == ("layer0.q_a_proj input", 0.0, layers)
    assert calls[-1][1:] == (layers, layers)


def test_figures_do_not_depend_on_slabs_and_threads(found: study.Study, model: Model) -> None:
    again = study.run_activations(model, IDS, SCHEMES, slab_elements=300, threads=3)
    for mine, other in zip(found.tensors, again.tensors, strict=True):
        # The same terms in other sums of float64.
        np.testing.assert_allclose(mine.sums, other.sums, rtol=1e-12, atol=1e-15, err_msg=mine.name)


def test_more_tokens_than_a_chunk_come_once() -> None:
    config = Config.preset("tiny").replace(num_hidden_layers=1, num_nextn_predict_layers=0)
    model = Model(config, random_weights(config))
    some = study.run_activations(model, np.arange(600) % 192, ["bf16"], include=["*.o_proj"])
    assert [(t.name, t.size) for t in some.tensors] == [("layer0.o_proj input", 600 * 112)]


def test_what_is_written(found: study.Study, tmp_path: Path) -> None:
    report = found.save(tmp_path).read_text()
    assert "## By kind of activation" in report
    assert "| scheme | attention input (3) |" in report
    assert "* tokens: 24" in report
    with open(tmp_path / "results.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["kind"] for record in records} == set(KINDS)
    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written["totals_by_kind"]) == set(KINDS)
    assert written["tensors"][0]["kind"] == "attention input"


# --- The verb -------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_random_tokens_are_said_loudly(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(
        "study", "--activations", str(GOLDEN), "--tokens", "7", "-s", "e4m3:1x128:f32", capsys=capsys
    )
    assert code == 0
    assert out.startswith("SYNTHETIC TOKENS: 7 ids drawn at random")
    assert "SQNR in dB by kind of activation" in out
    folder = here / "study-tiny_v3_fp8-activations"
    assert "> SYNTHETIC TOKENS" in (folder / "report.md").read_text()
    assert json.loads((folder / "results.json").read_text())["notes"][0].startswith("SYNTHETIC TOKENS")


def test_given_ids_are_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "prompt").write_text("3 1 4 1 5")
    code, out, _ = call(
        "study", "--activations", str(GOLDEN), "--ids", "@prompt", "--tokens", "4", "-s", "bf16",
        "--out", "o", "--include", "*.o_proj", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert "SYNTHETIC" not in out
    settings = json.loads((here / "o" / "results.json").read_text())["settings"]
    assert (settings["tokens"], settings["include"]) == (4, ["*.o_proj"])


def test_interrupted_it_keeps_what_is_done(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Model.forward

    def stopped(self: Model, ids: Any, *, hook: Callable[[Any], None], **settings: Any) -> Any:
        def look(done: Any) -> None:
            if done.operation.name.startswith("layer1."):
                raise KeyboardInterrupt
            hook(done)

        return forward(self, ids, hook=look, **settings)

    monkeypatch.setattr(Model, "forward", stopped)
    code, out, err = call("study", "--activations", str(GOLDEN), "-s", "bf16", "--out", "o", capsys=capsys)
    assert (code, err) == (130, "")
    assert "Partial: interrupted by the user" in out
    assert (here / "o" / "report.md").read_text().count("layer1.") == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--activations", str(GOLDEN), "--demo"],
            "give one of INPUT files or folders, --demo, or --activations",
        ),
        (
            ["--activations", str(GOLDEN), "w.npz"],
            "give one of INPUT files or folders, --demo, or --activations",
        ),
        (["--activations"], "--activations: give a MODEL, or --demo"),
        (
            ["--activations", "--demo", "w.npz"],
            "give one of INPUT files or folders, --demo, or --activations",
        ),
        (["--demo", "--tokens", "3"], "--ids, --text and --tokens are for --activations"),
        (["--activations", str(GOLDEN), "--ids", "1", "--text", "a"], "give --ids or --text, not both"),
        (["--activations", str(GOLDEN), "--ids", "1,x"], "expected whole numbers"),
        (["--activations", str(GOLDEN), "--ids", "9999"], "ids: found 9999 to 9999, expected 0 to 143"),
        (["--activations", str(GOLDEN), "--tokens", "0"], "--tokens"),
        (["--activations", str(GOLDEN), "-s", "e4m3:no"], "unknown group 'no'"),
        (["--activations", str(GOLDEN), "--include", "*.q_proj"], "no operation is selected; there are"),
        (["--activations", "missing"], "missing"),
    ],
)
def test_wrong_use_is_said_and_writes_nothing(
    args: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call("study", *args, capsys=capsys)
    assert code in (1, 2)
    assert message in err
    assert list(here.iterdir()) == []


# --- Hostile models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        ("study", "--activations", "model", "--ids", "1", "--out", "out"),
        ("run", "model", "--ids", "1", "--out", "out.npz"),
        ("sensitivity", "model", "--ids", "1,2", "--out", "out"),
    ],
    ids=lambda verb: verb[0],
)
def test_a_model_that_is_not_understood_is_refused_before_its_forward(
    here: Path, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    """Its codes may mean something else; nothing is written, not a part either."""
    shutil.copytree(GOLDEN, here / "model")
    (here / "model" / "hf_quant_config.json").write_text('{"quantization": ')
    code, _, said = call(*verb, capsys=capsys)
    assert code == 1
    assert "hf_quant_config.json: not JSON" in said
    assert sorted(path.name for path in here.iterdir()) == ["model"]


def test_no_tokens_give_an_error(model: Model) -> None:
    with pytest.raises(ValueError, match="ids: found none, expected at least one token"):
        study.run_activations(model, [], ["bf16"])


def test_weights_that_are_not_finite_are_named() -> None:
    config = Config.preset("tiny")
    weights = random_weights(config)
    weights["model.layers.1.self_attn.o_proj.weight"][3, 5] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in model.layers.1.self_attn.o_proj.weight"):
        study.run_activations(Model(config, weights), IDS, ["bf16"])


def test_inputs_are_let_go(model: Model) -> None:
    """A thousand tokens' inputs take 20 MB; held one at a time, a few."""
    import tracemalloc

    config = Config.preset("tiny").replace(num_nextn_predict_layers=0)
    narrow = Model(config, random_weights(config))
    ids = np.arange(1024) % 192
    tracemalloc.start()
    narrow.forward(ids, absorbed=False, chunk=1024)
    _, alone = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    study.run_activations(narrow, ids, ["bf16"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The slab, its approximation and the watched operation's copies are beside the forward's own arrays.
    assert peak < alone + 8e6
