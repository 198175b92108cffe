"""Sensitivity: figures against formulas, zero where nothing differs, the same files after a break."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsv3_numerics import sensitivity
from dsv3_numerics.model import Model, OpRecord, Recipe
from dsv3_numerics.report import Progress
from dsv3_numerics.sensitivity import (
    COLUMNS,
    PARTS,
    Sensitivity,
    Spread,
    divergence,
    other_experts,
    random_model,
    row_errors,
    same_top,
    variants,
)
from dsv3_numerics.sensitivity.findings import findings
from dsv3_numerics.sensitivity.forward import perturbed
from dsv3_numerics.sensitivity.measuring import location_of
from dsv3_numerics.sensitivity.metrics import log_softmax, prediction_interval
from dsv3_numerics.sensitivity.plots import PLOTS

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
V3 = Recipe.preset("deepseek_v3")
FEW = ("activations", "gate")


@pytest.fixture(scope="module")
def model() -> Model:
    """The demo's model: 3 layers, two of them with experts."""
    return random_model()


@pytest.fixture(scope="module")
def whole(model: Model) -> Sensitivity:
    """The released recipe with all its choices."""
    return sensitivity.run(model, IDS, V3, perturbations=2)


# --- figures ---

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=FLOATS | st.just(math.inf)))
def test_a_spread_is_numpys_percentiles(values: np.ndarray) -> None:
    found = Spread.of(values)
    # percentiles that occur, as NumPy has them under this name
    expected = [np.percentile(values, q, method="inverted_cdf") for q in (5, 50, 95)]
    assert list(found) == [len(values), *expected, values.max()]


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="values: found none"):
        Spread.of([])


def test_errors_of_rows_are_norms_over_norms() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 4, 5))
    found = row_errors(x, y)
    norms = np.linalg.norm(y - x, axis=-1) / np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(found.relative, norms.ravel(), rtol=1e-14)  # a root of other sums
    assert found.sum_x2 == pytest.approx((x * x).sum(), rel=1e-14)
    assert found.sum_e2 == pytest.approx(((y - x) ** 2).sum(), rel=1e-14)


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [1.0, 0.0], math.inf),
        ([1.0, 2.0], [math.nan, 2.0], math.inf),
        ([1.0, 2.0], [math.inf, 2.0], math.inf),
        ([1e300, 0.0], [-1e300, 0.0], math.inf),
    ],
)
def test_errors_without_a_size_or_a_number(x: list[float], y: list[float], error: float) -> None:
    assert row_errors(x, y).relative.tolist() == [error]


LOGITS = hnp.arrays(np.float64, (2, 3, 7), elements=st.floats(-50, 50))


@given(LOGITS, LOGITS)
def test_divergence_is_the_textbooks_sum(a: np.ndarray, b: np.ndarray) -> None:
    found = divergence(a, b)
    p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (a, b))
    expected = (p * (np.log(p) - np.log(q))).sum(axis=-1).ravel()
    # the textbook's terms cancel
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert (found >= 0).all()


def test_small_divergences_do_not_drown_in_rounding() -> None:
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 5, 100))
    p = np.exp(log_softmax(x))
    mean = (p * e).sum(axis=-1, keepdims=True)
    for size in (1e-3, 1e-6):
        half = size**2 * (p * (e - mean) ** 2).sum(axis=-1) / 2
        # half the variance, but for a term of the third order; the textbook's sum has 1e-16 of noise here
        np.testing.assert_allclose(divergence(x, x + size * e), half, rtol=2 * size + 1e-3)


def test_divergence_of_far_logits_is_finite() -> None:
    far = divergence([[1000.0, -1000.0]], [[-1000.0, 1000.0]])
    assert far == pytest.approx([2000.0])
    assert divergence([[1000.0, -1000.0]], [[1000.0, -1000.0]]).tolist() == [0.0]


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"logits: found shape \(3,\), expected \(2,\)"):
        divergence(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"values: found shape \(3,\), expected \(2,\)"):
        row_errors(np.zeros(2), np.zeros(3))


def test_top_and_experts_token_by_token() -> None:
    assert same_top([[1.0, 2.0], [3.0, 3.0]], [[0.0, 9.0], [3.0, 4.0]]).tolist() == [True, False]
    a, b = np.array([[[1, 2], [3, 4]]]), np.array([[[2, 1], [3, 5]]])
    assert other_experts(a, b).tolist() == [False, True]


def test_it_is_a_prediction_interval() -> None:
    """One more of normal runs falls within it 99 times in 100 (3 standard deviations of 4000 trials)."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(4000, 6))
    inside = [abs(row[5] - row[:5].mean()) <= prediction_interval(row[:5]) for row in runs]
    assert np.mean(inside) == pytest.approx(0.99, abs=3 * math.sqrt(0.99 * 0.01 / 4000))
    assert prediction_interval([1.0]) == math.inf


@pytest.mark.parametrize(("numbers", "digits"), [("bf16", 8), ("float32", 24), ("float64", 24)])
@pytest.mark.parametrize("share", [0.0, 0.125])
def test_a_perturbed_is_one_last_place(numbers: str, digits: int, share: float) -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 640)).astype(np.float32).astype(np.float64)
    x[0, 0] = 0
    new = perturbed(x, 1, numbers, share)
    moved = (new != x).sum(axis=-1).ravel()
    assert moved[0] == 0, "zero has no last place"
    # an eighth of 640 channels is 80, with a standard deviation of 8
    assert ((moved[1:] == 1) if share == 0 else (abs(moved[1:] - 80) < 40)).all()
    old, by = x[new != x], (new - x)[new != x]
    assert (abs(by) == np.ldexp(1.0, np.frexp(old)[1] - digits)).all()
    assert {-1.0, 1.0} == set(np.sign(by))
    assert (perturbed(x, 1, numbers, share) == new).all()
    assert (perturbed(x, 2, numbers, share) != new).any()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("layer3.experts.17.gate_proj", (3, "experts.*.gate_proj", "k")),
        ("layer12.shared_experts.up_proj", (12, "shared_experts.up_proj", "k")),
        ("lm_head", (None, "lm_head", "k")),
    ],
)
def test_experts_of_a_layer_are_one_place(name: str, place: tuple[Any, ...]) -> None:
    assert location_of(name, "k") == place


# --- variants ---


def test_variants_turn_each_choice_on_and_off() -> None:
    found = variants(V3)
    names = [v.name for v in found]
    assert names[:3] == ["all", "compute alone", "without compute"]
    assert names[-8:-5] == ["absorbed", "one channel", "perturbed 1"]
    assert names[-1] == "perturbed 6"
    assert len(set(names)) == len(names)
    by_name = {v.name: v for v in found}
    for choice in V3.choices():
        assert by_name[f"{choice} alone"].recipe == V3.only(choice)
        assert by_name[f"without {choice}"].recipe == V3.without(choice)
    base = by_name["base of accumulator"]
    assert base.recipe.choices() == ("activations", "weights")
    assert [v.choice for v in found if v.role == "base"] == ["accumulator"]


def test_variants_of_some_choices_and_of_none() -> None:
    assert [v.name for v in variants(V3, ["gate", "cache"], absorbed=True, perturbations=0)] == [
        "all", "cache alone", "without cache", "gate alone", "without gate", "naive",
    ]  # fmt: skip
    names = [v.name for v in variants(Recipe(), perturbations=1)]
    assert names == ["all", "absorbed", "one channel", "perturbed 1"]
    with pytest.raises(
        ValueError, match=r"choice: found 'gates', expected some of compute, activations, .*gate"
    ):
        variants(V3, ["gates"])


# --- what is measured ---


def errors(result: Sensitivity) -> Iterator[tuple[str, float]]:
    """Every figure of the CSV that is an error: variant, and its value."""
    for row in result.records():
        if row["metric"] not in ("same_top", "experts_changed") and not row["metric"].startswith("perturbed"):
            yield row["variant"], row["value"]


def test_float64_errs_everywhere(model: Model) -> None:
    result = sensitivity.run(model, IDS, Recipe(), perturbations=0)
    mine = {v.name for v in result.variants if not v.absorbed}
    assert {value for name, value in errors(result) if name in mine} == {0.0}
    assert result.parts["operators", "all"] == {"rows": [], "over_base": [], "kinds": []}
    assert (result.agreement("all"), result.rerouted("all")) == (1.0, 0.0)
    # float64 sums in another order
    assert max(value for name, value in errors(result) if name == "absorbed") < 1e-12
    assert result.costs() == []


@pytest.mark.parametrize("recipe", [Recipe(compute="bf16"), Recipe(activations="e4m3:1x128:f32")])
def test_the_only_choice_is_all_there_is(model: Model, recipe: Recipe) -> None:
    result = sensitivity.run(model, IDS, recipe, perturbations=1)
    (choice,) = recipe.choices()
    for part in PARTS:
        assert result.part(part, f"{choice} alone") == result.part(part, "all")
    without = f"without {choice}"
    assert {value for name, value in errors(result) if name == without} == {0.0}
    (cost,) = result.costs()
    assert cost.alone is not None
    assert cost.alone.kl == result.spread("all")
    assert cost.alone.same_top == result.agreement("all")
    assert cost.alone.sqnr_db == -20 * math.log10(result.spread("all", "relative_error").median)
    assert cost.gain > 0
    assert max(result.tokens("all")) > 0


def test_logits_are_those_of_forward(model: Model, whole: Sensitivity) -> None:
    exact, coarse = (model.forward(IDS, recipe=r, absorbed=False) for r in (Recipe(), V3))
    assert whole.tokens("all").tolist() == divergence(exact, coarse).tolist()
    relative = np.linalg.norm(coarse - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    # norms by other sums
    np.testing.assert_allclose(whole.tokens("all", "relative_error"), relative, rtol=1e-12)
    assert whole.agreement("all") == (coarse.argmax(-1) == exact.argmax(-1)).mean()


def test_experts_are_those_of_the_trace(model: Model, whole: Sensitivity) -> None:
    names = [f"layer{i}.topk_idx" for i in (1, 2)]
    exact, coarse = (model.trace(IDS, names, recipe=r, absorbed=False) for r in (Recipe(), V3))
    changed = [(np.sort(exact[n]) != np.sort(coarse[n])).any(axis=-1).ravel() for n in names]
    rows = whole.part("logits", "all")["layers"]
    assert [row["experts_changed"] for row in rows] == [None, changed[0].mean(), changed[1].mean()]
    assert whole.tokens("all", "layers_with_other_experts").tolist() == np.sum(changed, axis=0).tolist()


def test_layers_are_fed_what_they_have_in_float64(model: Model, whole: Sensitivity) -> None:
    traces = model.trace(IDS, ["layer1.input", "layer1.output"], recipe=Recipe(), absorbed=False)
    x, y = traces["layer1.input"], traces["layer1.output"]
    out = model.layers[1](x, recipe=V3, absorbed=False)
    row = whole.part("layers", "all")["rows"][1]
    relative = np.linalg.norm(out - y, axis=-1) / np.linalg.norm(y - x, axis=-1)
    # norms by other sums
    assert row["increment"]["worst"] == pytest.approx(relative.max(), rel=1e-12)
    assert row["increment"]["pooled"] > row["output"]["pooled"] > 0


def test_operations_are_done_again_on_the_same_inputs(model: Model, whole: Sensitivity) -> None:
    seen = {}

    def hook(record: OpRecord) -> None:
        if record.operation.name == "layer1.o_proj":
            seen["o_proj"] = (np.asarray(record.output), np.asarray(record.replay(V3)))

    model.forward(IDS, recipe=Recipe(), absorbed=False, hook=hook)
    relative = np.linalg.norm(seen["o_proj"][1] - seen["o_proj"][0], axis=-1)
    relative /= np.linalg.norm(seen["o_proj"][0], axis=-1)
    rows = whole.part("operators", "all")["rows"]
    (row,) = (r for r in rows if (r["layer"], r["operation"]) == (1, "o_proj"))
    assert row["worst"] == pytest.approx(relative.max(), rel=1e-12)  # norms by other sums


def test_a_choice_errs_only_where_it_is_named(whole: Sensitivity) -> None:
    kinds = {
        choice: {row["kind"] for row in whole.part("operators", f"{choice} alone")["rows"]}
        for choice in whole.choices
    }
    assert kinds["combine"] == {"combine"}
    assert kinds["dispatch"] <= {"dispatch", "linear"}
    assert kinds["gate"] == {"gate"}
    assert kinds["activations"] == {"linear"}


def test_an_accumulator_is_seen_beside_its_base(model: Model, whole: Sensitivity) -> None:
    """Its own error, beside that of the codes that it adds up, is a small part of that error."""
    part = whole.part("operators", "accumulator alone")
    assert [row["operation"] for row in part["over_base"]] == [row["operation"] for row in part["rows"]]
    for own, both in zip(part["over_base"], part["rows"], strict=True):
        assert 0 <= own["pooled"] < both["pooled"] / 5
    assert max(row["worst"] for row in part["over_base"]) > 0
    seen = []

    def hook(record: OpRecord) -> None:
        if record.operation.name == "layer0.down_proj":
            alone = V3.only("accumulator")
            seen.append(
                row_errors(record.replay(alone.without("accumulator")), record.replay(alone)).relative.max()
            )

    model.forward(IDS, recipe=Recipe(), absorbed=False, hook=hook)
    (row,) = (r for r in part["over_base"] if (r["layer"], r["operation"]) == (0, "down_proj"))
    assert [row["worst"]] == seen


def test_perturbed_runs_give_the_noise_floor(whole: Sensitivity) -> None:
    least, more = (whole.part("logits", name)["beside"] for name in ("one channel", "perturbed 1"))
    exact, own = (least[under]["relative_error"]["median"] for under in ("float64", "recipe"))
    assert 0 < exact < 0.002
    assert own > 10 * exact
    assert exact < more["float64"]["relative_error"]["median"] < 0.02
    floor = whole.noise_floor()
    assert len(floor.values) == 3
    assert floor.values[0] == whole.spread("all").median
    assert 0 < floor.prediction_interval < math.inf


def test_threads_change_nothing(model: Model) -> None:
    settings: dict[str, Any] = {"only": ["gate"], "perturbations": 0}
    one, two = (sensitivity.run(model, IDS, V3, threads=n, **settings).parts for n in (1, 2))
    assert one == two


def test_the_figures_are_the_same_at_every_simd_level(product_level: str) -> None:
    """A code that flips by one float32 sum would change everything behind it."""
    assert few(product_level) == few("the first that was asked for")


@cache
def few(level: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The released recipe and its activations alone."""
    return sensitivity.run(random_model(), IDS, V3, only=["activations"], perturbations=0).parts


# --- what is told ---


def test_the_files_agree(whole: Sensitivity, tmp_path: Path) -> None:
    whole.save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == len(content["rows"])
    for line, row in zip(rows, content["rows"], strict=True):
        for name in COLUMNS:
            text, value = line[name], row[name]
            same = text == "" or text == "inf" if value is None else text == str(value)
            assert same, (name, text, value)
    assert content["recipe"] == json.loads(V3.to_json())
    assert set(content["tokens"]) == {v.name for v in whole.variants}
    assert content["tokens"]["all"]["kl_nats"] == whole.tokens("all").tolist()
    report = (tmp_path / "report.md").read_text()
    for title, (name, _) in PLOTS.items():
        assert f"![{title}]({name})" in report
        assert (tmp_path / name).stat().st_size > 5000
    for finding in findings(whole):
        assert finding in report
    for choice in V3.choices():
        assert f"| {choice} |" in report
    assert "One channel of each token's embedding" in report


def test_whatever_is_done_can_be_told(whole: Sensitivity, tmp_path: Path) -> None:
    """With the parts of the first n jobs, for every n that an interruption may leave."""
    order = [(part, v.name) for part in reversed(PARTS) for v in whole.variants if part in v.parts]
    assert set(order) == set(whole.parts)
    for n in (0, 1, 2, len(order) // 2, len(order) - 1):
        some = Sensitivity(whole.recipe, whole.variants, {key: whole.parts[key] for key in order[:n]})
        some.partial = "stopped"
        texts = [*findings(some), *(str(cost) for cost in some.costs()), repr(some)]
        assert all(texts)
        assert some.table().row_count == (len(whole.choices) if n else 0)
        assert len(list(some.records())) >= n
    report = some.save(tmp_path).read_text()
    assert "Partial: stopped" in report
    assert "1 parts are missing" in report


def told(kl: float, spread: float = 0.0) -> dict[str, Any]:
    """A part of the logits with one token."""
    tokens = {"kl_nats": [kl], "relative_error": [kl], "same_top": [1], "layers_with_other_experts": [0]}
    return {"pooled": kl, "tokens": tokens, "layers": []}


@pytest.mark.parametrize(
    ("without", "effect"),
    [(1.0, "nothing"), (1.05, "within noise"), (0.2, "costs"), (4.0, "helps")],
)
def test_a_gain_below_the_noise_floor_is_said_to_be_so(without: float, effect: str) -> None:
    recipe = Recipe(gate="bf16")
    values = {"all": 1.0, "gate alone": 0.5, "without gate": without}
    values |= {"perturbed 1": 1.01, "perturbed 2": 0.99}
    parts = {("logits", name): told(value) for name, value in values.items()}
    result = Sensitivity(recipe, variants(recipe, perturbations=2), parts)
    (cost,) = result.costs()
    assert cost.effect == effect
    assert cost.prediction_interval == pytest.approx(9.925 * 0.01 * math.sqrt(4 / 3))
    assert cost.gain == pytest.approx(0.0 if effect == "nothing" else 1.0 - without)


def test_without_perturbations_nothing_is_known_of_the_noise_floor() -> None:
    recipe = Recipe(gate="bf16")
    parts = {("logits", name): told(value) for name, value in (("all", 1.0), ("without gate", 0.5))}
    (cost,) = Sensitivity(recipe, variants(recipe, perturbations=0), parts).costs()
    assert (cost.effect, cost.prediction_interval, cost.alone) == ("not known", math.inf, None)


# --- taken up again ---


class Stopped(Exception):
    """Interruption of these tests."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file, without what tells the time."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in ("results.json", "report.md", "report.html"):
        lines = found[name].splitlines()
        found[name] = b"\n".join(x for x in lines if b'"seconds"' not in x and b"time of" not in x)
    return found


def test_taken_up_again_it_ends_in_the_same_files(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dsv3_numerics.sensitivity.files.PLOTS", dict(list(PLOTS.items())[1:2])
    )  # one is enough
    settings: dict[str, Any] = {"only": FEW, "perturbations": 1}
    straight = sensitivity.run(model, IDS, V3, folder=tmp_path / "a", **settings)
    straight.save(tmp_path / "a")
    total = len(straight.parts)

    def stop_after(labels: int) -> Progress:
        seen = set()

        def stop(label: str, done: float, total: float) -> None:
            seen.add(label)
            if len(seen) > labels:
                raise Stopped

        return stop

    for labels in (1, 4, 9):
        with pytest.raises(Stopped):
            sensitivity.run(model, IDS, V3, folder=tmp_path / "b", progress=stop_after(labels), **settings)
    left = sensitivity.prepare(model, IDS, V3, folder=tmp_path / "b", **settings)
    assert 0 < len(left.jobs) < total
    (tmp_path / "b" / "parts" / "logits-all.json").write_text('{"variant": ')  # a damaged part is done again
    sensitivity.run(model, IDS, V3, folder=tmp_path / "b", **settings).save(tmp_path / "b")
    assert files(tmp_path / "b") == files(tmp_path / "a")
    again = sensitivity.prepare(model, IDS, V3, folder=tmp_path / "b", **settings)
    assert again.jobs == []
    assert again.result.parts == straight.parts
    more = sensitivity.prepare(model, IDS, V3, only=(*FEW, "cache"), perturbations=1, folder=tmp_path / "b")
    assert {job.variant.choice for job in more.jobs} == {"cache"}


def test_progress_adds_up(model: Model) -> None:
    prepared = sensitivity.prepare(model, IDS, V3, only=["gate"], perturbations=1)
    seen: list[tuple[str, float, float]] = []
    sensitivity.execute(prepared, progress=lambda *told: seen.append(told))
    total = sum(job.cost for job in prepared.jobs)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (total, total)
    assert {label for label, _, _ in seen} == {"reference: float64", *(job.label for job in prepared.jobs)}
