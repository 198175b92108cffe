"""Experiments: known figures come out, a seed fixes every row, and any part of the rows can be told."""

from __future__ import annotations

import csv
import json
import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics import experiments
from dsv3_numerics.experiments import (
    EXPERIMENTS,
    Experiment,
    Job,
    Result,
    RunConfig,
    combine,
    draws,
    fit,
    products,
)
from dsv3_numerics.experiments import logfmt as logfmt_experiment
from dsv3_numerics.experiments.units import UNITS
from dsv3_numerics.experiments.wire import WIRES
from dsv3_numerics.report.charts import spread_out

NAMES = [e.name for e in EXPERIMENTS]


@cache
def quick(name: str) -> Result:
    """A quick run, done once for all tests."""
    return experiments.run(name, quick=True)


# --- the table ---


def test_rows_of_the_table_say_what_they_are() -> None:
    assert NAMES == ["logfmt", "combine", "accumulation", "promotion", "drift", "training", "fit"]
    for row in EXPERIMENTS:
        assert row.shows.endswith(".")
        assert not row.source.endswith(".")
        assert row.published
        assert row.plots
        assert len({known.what for known in row.published}) == len(row.published)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"found 'logfm', expected one of logfmt, .*did you mean logfmt"):
        experiments.find("logfm")
    with pytest.raises(ValueError, match="seed: found -1"):
        experiments.run("combine", seed=-1)


# --- known figures ---

# A quick run draws few values, so its figures scatter: means within 3 %, norms of products within 5 %. The
# largest error of few outputs is smaller than that of many; an SQNR of heavy-tailed data hangs on few values.
TOLERANCES = {"logfmt": 0.03, "combine": 1e-3, "promotion": 0.05, "drift": 0.05}
SCATTERS = ("lognormal", "largest error over rms", "largest relative error", "bias")


def close(name: str) -> list[tuple[str, float, float]]:
    """Known and measured figures that a quick run can be held to."""
    found = []
    for known, measured in quick(name).comparison():
        if not any(word in known.what for word in SCATTERS):
            assert isinstance(known.value, float | int)
            assert isinstance(measured, float)
            found.append((known.what, known.value, measured))
    return found


@pytest.mark.parametrize("name", TOLERANCES)
def test_known_figures_come_out(name: str) -> None:
    figures = close(name)
    assert figures
    far = [row for row in figures if not math.isclose(row[1], row[2], rel_tol=TOLERANCES[name])]
    assert far == []


def test_the_known_figures_of_accumulation_come_out() -> None:
    """Means and norms hardly depend on the number of outputs: within a tenth of the known range's ends."""
    found = {known.what: (known, measured) for known, measured in quick("accumulation").comparison()}
    for how in ("never promoted", "promoted every 128"):
        known, measured = found[f"Hopper FP8, {how}: Frobenius"]
        assert measured == pytest.approx((known.value, known.value), rel=0.1)
    known, measured = found["cast to E4M3: Frobenius"]
    assert measured == pytest.approx((known.value, known.value), rel=0.1)


def test_every_known_figure_is_measured_by_a_full_run() -> None:
    """A quick run leaves out the lengths above 4096, and nothing else."""
    missing = {
        name: [
            k.what
            for k in experiments.find(name).published
            if k not in [c for c, _ in quick(name).comparison()]
        ]
        for name in NAMES
    }
    assert {name: what for name, what in missing.items() if what} == {
        "drift": [w for w in missing["drift"] if "K = 16384" in w]
    }


def test_logfmt_wins_and_loses_where_it_should() -> None:
    result = quick("logfmt")

    def gain(octaves: int) -> float:
        four, eight = (
            result.value("rms_relative_error", "span", octaves=octaves, sent_as=name)
            for name in ("E4M3", "LogFMT-8")
        )
        return four - eight

    assert [gain(octaves) > 0 for octaves in (1, 8, 16, 18, 32, 40)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    zeros = [
        result.value("sqnr_db", "data", data="one zero", sent_as=n) for n in ("LogFMT-8", "LogFMT-8, DeepEP")
    ]
    assert zeros[0] > 36 > 27 > zeros[1]


def test_rounding_follows_the_bias_laws() -> None:
    """Half-normal values: -s²/12 in linear space, +s²/24 in log space, none at random.

    The mean error of half a million values scatters by s/sqrt(12 n) = 7e-5, at random by twice that.
    """
    step = 32 * math.log(2) / 126
    result = quick("logfmt")
    laws = {"linear": -(step**2) / 12, "log": step**2 / 24, "stochastic": 0.0}
    found = {r: result.value("magnitude_bias", "bias", density="half-normal", rounding=r) for r in laws}
    assert found == pytest.approx(laws, abs=3.5e-4)


def test_the_floor_loses_tiny_gradients_and_nothing_else_does() -> None:
    result = quick("fit")
    learned = {
        name: result.value("held_out", "final", sizes="main", start=0, recipe=name) for name in fit.VARIANTS
    }
    floor = learned.pop("tiny gradients, floor of 1e-4")
    spread = max(learned.values()) - min(learned.values())
    assert spread < 1e-3 * learned["BF16"]
    assert floor - max(learned.values()) > 2 * spread


def test_what_training_must_show() -> None:
    result = quick("training")

    def error(recipe: str, product: str, data: str = "normal") -> float:
        return result.value("error", "layer", data=data, recipe=recipe, product=product)

    for data in ("normal", "laplace", "outliers", "channels"):
        changed = {
            scale: result.value("changed", "regroup", data=data, stored="float8_e4m3fn", scale=scale)
            for scale in ("float32", "ue8m0")
        }
        assert changed["float32"] > 0.97
        assert changed["ue8m0"] < 1e-3
        assert error("FP8 up projection", "wgrad", data) < error("FP8, float32 scales", "wgrad", data)
    assert error("FP8, E5M2 gradients", "dgrad") > 1.4 * error("FP8, float32 scales", "dgrad")
    tiny = {dy: result.value("wgrad", "floor", size=1e-11, dy=dy) for dy in result.kinds("dy", "floor")}
    assert tiny["E4M3, floor of 1e-4"] == pytest.approx(1)
    assert tiny["E4M3, no floor"] < 0.05
    lost = [result.value("lost", "tokens", octaves=4, dy=f"E4M3, {g}") for g in ("1x128", "128x128")]
    assert lost[0] == 0 < lost[1]


# --- reruns and interruptions ---


@pytest.mark.parametrize("name", ["logfmt", "promotion"])
def test_the_same_seed_gives_the_same_files(name: str, tmp_path: Path) -> None:
    """On one thread as on two; another seed gives others."""
    again = experiments.run(name, quick=True, threads=1)
    assert again.rows == quick(name).rows
    for folder, result in (("a", quick(name)), ("b", again)):
        result.save(tmp_path / folder)
    for file in ("results.csv", *(f for f, _ in again.experiment.plots.values())):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert experiments.run(name, seed=1, quick=True).rows != again.rows


def test_random_numbers_hang_on_seed_and_purpose_only() -> None:
    purposes = [(), ("a",), ("a", 1), ("b",), ("a", 2)]
    drawn = {(seed, key): RunConfig(seed).rng(*key).random() for seed in (0, 1) for key in purposes}
    assert len(set(drawn.values())) == len(drawn)
    assert RunConfig(1).rng("a", 2).random() == drawn[1, ("a", 2)]


@pytest.mark.parametrize("name", NAMES)
def test_any_part_of_the_rows_can_be_told(name: str) -> None:
    """An interruption leaves a beginning of the rows, of any length."""
    whole = quick(name)
    count = len(whole.rows)
    assert whole.findings()
    assert len(whole.findings()) == len(whole.experiment.findings)
    for n in sorted({*range(min(count, 40)), *range(0, count, 7), count}):
        part = Result(whole.experiment, whole.config, whole.rows[:n])
        assert all(len(table.header) == len(row) for table in part.tables() for row in table.rows)
        assert all("nan" not in text for text in part.findings())
        assert len(part.comparison()) <= len(whole.comparison())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", [0.0, 0.15, 0.6, 1.0])
def test_files_of_any_part(name: str, part: float, tmp_path: Path) -> None:
    whole = quick(name)
    n = max(1, round(part * len(whole.rows)))
    result = Result(whole.experiment, whole.config, whole.rows[:n], dict(whole.settings), "stopped")
    report = result.save(tmp_path).read_text()
    assert "> **Partial: stopped.**" in report
    assert "nan" not in report.split("## How this was made")[0]
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {file for file, _ in whole.experiment.plots.values() if f"]({file})" in report}
    assert len(drawn) == len(whole.experiment.plots) or part < 1
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["part"] for line in lines] == [row["part"] for row in result.rows]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["partial"] == "stopped"
    assert content["findings"] == result.findings()
    assert len(content["rows"]) == n


def test_an_interrupted_job_leaves_no_rows() -> None:
    def stops():  # type: ignore[no-untyped-def]
        yield {"part": "x", "n": 2}
        raise KeyboardInterrupt

    jobs = [Job("one", lambda: [{"part": "x", "n": 1}], 2.0), Job("two", stops), Job("three", list)]
    result = Result(EXPERIMENTS[0], RunConfig())
    seen: list[tuple[str, float, float]] = []
    with pytest.raises(KeyboardInterrupt):
        experiments.execute(result, jobs, progress=lambda *told: seen.append(told))
    assert result.rows == [{"part": "x", "n": 1}]
    assert seen == [("one", 0, 4), ("one", 2, 4), ("two", 2, 4)]
    assert result.seconds > 0


def test_rows_are_selected_by_their_values() -> None:
    result = Result(EXPERIMENTS[0], RunConfig())
    result.rows = [{"part": "x", "k": k, "error": k / 2, "none": None} for k in (1, 2)]
    assert result.value("error", "x", k=2) == 1.0
    assert result.kinds("k", "x") == [1, 2]
    for column, where in (("error", {"k": 3}), ("error", {}), ("none", {"k": 1})):
        with pytest.raises(LookupError):
            result.value(column, "x", **where)  # type: ignore[arg-type]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=NAMES)
def test_jobs_of_a_full_run_are_listed_without_work(experiment: Experiment) -> None:
    few, all_ = (experiment.jobs(RunConfig(quick=small)) for small in (True, False))
    assert 1 < len(few) <= len(all_)
    assert all(job.cost > 0 and job.label for job in all_)


# --- the parts ---


@pytest.mark.parametrize("data", draws.ACTIVATIONS, ids=lambda d: d.name)
def test_activations_are_bfloat16_values_below_one(data: draws.Data) -> None:
    x = draws.activations(data, np.random.default_rng(0), (16, 512))
    assert 0.5 <= np.abs(x).max() < 1
    assert not (x.view(np.uint32) & 0xFFFF).any()
    assert (x == 0).sum() == (64 if data.name == "one zero" else 0)


def test_log_uniform_rows_span_what_they_should() -> None:
    x = np.abs(draws.log_uniform(np.random.default_rng(0), 20, (50, 128)).astype(np.float64))
    assert np.allclose(np.log2(x.max(axis=1) / x.min(axis=1)), 20)
    assert np.log2(x).mean() == pytest.approx(-10, abs=0.5)


def test_gates_are_those_of_eight_experts() -> None:
    gates = combine.gates(np.random.default_rng(0), 100)
    assert gates.shape == (100, 8)
    assert np.allclose(gates.sum(axis=1), 2.5)


def test_a_combine_of_what_arrives_as_it_was_is_the_sum() -> None:
    values, weights, exact = combine.outputs(RunConfig(), combine.AGREEING, 3)
    assert np.abs(combine.combine(values, weights) - exact).max() < 1e-6  # float32 sums of eight
    assert [combine.bytes_of_a_row(n) for n in ("BF16", "E4M3", "LogFMT-8", "LogFMT-10")] == [
        14336,
        7168 + 56 * 4,
        7392,
        9184,
    ]


def test_wires_are_told_apart_by_their_names() -> None:
    assert len({wire.name for wire in WIRES}) == len(WIRES) == 13
    x = draws.activations(draws.ACTIVATIONS[0], np.random.default_rng(0), (4, 1024))
    sent = {wire.name: wire.send(x) for wire in WIRES}
    assert sent["BF16"].values.tobytes() == x.tobytes()
    assert sent["E4M3"].bits_per_element == 8.25
    assert sent["LogFMT-10, DeepEP"].bits_per_element == 10.25
    assert sent["LogFMT-10, DeepEP"].escaped == 0
    assert (
        sent["LogFMT-10, DeepEP"].values.tobytes() == sent["LogFMT-10"].values.tobytes()
    )  # no zeros, all fit


def test_weights_are_whole_tiles_of_rows() -> None:
    x = logfmt_experiment.weights(1 << 14)
    assert x.shape[1] == 1024
    assert 1 << 13 <= x.size <= 1 << 14


def test_errors_of_a_product_by_hand() -> None:
    found = products.errors(np.array([[3.0, -4.0]]), np.float32([[2.5, -3.75]]))
    rms = math.sqrt(12.5)
    assert found == pytest.approx(
        {
            "max_over_rms": 0.5 / rms,
            "max_over_max": 0.125,
            "max_relative": 0.0625,
            "mean_relative": (1 / 6 + 1 / 16) / 2,
            "median_relative": (1 / 6 + 1 / 16) / 2,
            "frobenius": math.sqrt(0.3125) / 5,
            "drift": -0.75 / 7,
        }
    )


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_multiplies_the_same_numbers(unit: str) -> None:
    """In its own input format, and a float16 result does not overflow: none loses as much as 0.2 %."""
    operands, cast = products.draw(
        np.random.default_rng(0), "normal", 8, 256, largest=products.largest_for(unit)
    )
    assert 0.02 < cast < 0.06
    assert products.multiply(operands, unit, None) == pytest.approx(
        operands.exact, abs=2e-3 * operands.exact.std()
    )


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12).map(sorted), st.floats(1, 40))
def test_names_are_spread_out_in_order(heights: list[float], gap: float) -> None:
    placed = spread_out(heights, gap)
    assert all(b - a >= gap * (1 - 1e-9) for a, b in pairwise(placed))
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert placed == pytest.approx(heights)
    assert sum(placed) == pytest.approx(sum(heights), abs=1e-6)
