"""The study: figures against plain NumPy, independence of slabs, what is left out, and what is written."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics import _core, study
from dsv3_numerics.number_formats import format_info
from dsv3_numerics.study import Scheme
from dsv3_numerics.study.demo import synthetic
from dsv3_numerics.study.metrics import Metrics, sums_of
from dsv3_numerics.study.plots import layer_pattern
from dsv3_numerics.study.slabs import batches, plan

GROUPINGS = (
    "e4m3:tensor:f32",
    "e4m3:row:f32",
    "e4m3:col:f32",
    "e4m3:128x1:f32",
    "e4m3:128x128:ue8m0",
    "nvfp4",
)
ALL = [str(s) for s in study.DEFAULT_SCHEMES] + [
    s for s in GROUPINGS if s not in map(str, study.DEFAULT_SCHEMES)
]


def heavy(*shape: int, seed: int = 0) -> np.ndarray:
    """Values over many octaves, with exact zeros: every format underflows on some of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, shape) * 0.05
    x[rng.random(shape) < 0.02] = 0
    return x.astype(np.float32)


# --- metrics ---


@pytest.mark.parametrize("spelling", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_metrics_are_those_of_numpy(spelling: str, dtype: type) -> None:
    x = heavy(200, 300).astype(dtype)
    m = study.measure(x, spelling)
    scheme = Scheme.parse(spelling)
    wide = x.astype(np.float64)
    source = x if dtype is np.float64 else x.astype(np.float32)
    y = scheme.approximate(source).values.astype(np.float64)
    e, some = y - wide, wide != 0
    expected = {
        "count": x.size,
        "sqnr_db": 10 * math.log10((wide**2).sum() / (e**2).sum()) if e.any() else math.inf,
        "relative_error": np.linalg.norm(e) / np.linalg.norm(wide),
        "max_abs_error": np.abs(e).max(),
        "max_rel_error": np.abs(e[some] / wide[some]).max(),
        "mean_error": e.mean(),
        "relative_bias": e.sum() / np.abs(wide).sum(),
        "underflow_rate": (some & (y == 0)).mean(),
        "bits_per_element": scheme.bits(200, 300) / x.size,
    }
    # The sums are those of NumPy in another order: 60 000 terms of float64, of which e.sum() cancels.
    for name, value in expected.items():
        assert getattr(m, name) == pytest.approx(value, rel=1e-9, abs=1e-15), name
    assert 0 <= m.saturation_rate <= 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-2, 1e-5, 1e-8]))
def test_cosine_distance_does_not_cancel(seed: int, noise: float) -> None:
    """Against exact rational arithmetic; 1 - cos itself would lose half the digits at 1e-8."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 16))
    y = (x * (1 + noise * rng.normal(size=x.shape))).astype(np.float32)
    row, _ = sums_of(x, y, 0)
    fx, fy = [Fraction(v) for v in x.flat], [Fraction(float(v)) for v in y.flat]
    xx, yy = sum(v * v for v in fx), sum(v * v for v in fy)
    xy = sum(a * b for a, b in zip(fx, fy, strict=True))
    sin2 = float((xx * yy - xy * xy) / (xx * yy))
    assert Metrics.of(row).cosine_distance == pytest.approx(sin2 / (1 + math.sqrt(1 - sin2)), rel=1e-5)


def test_figures_of_the_limits_are_defined() -> None:
    zeros = study.measure(np.zeros((4, 8), np.float32), "e4m3:1x128:f32")
    assert zeros.sqnr_db == math.inf
    assert (zeros.relative_error, zeros.cosine_distance, zeros.relative_bias) == (0, 0, 0)
    lost = study.measure(np.full((1, 8), 1e-30, np.float32), "e4m3")
    assert (lost.cosine_distance, lost.relative_error, lost.underflow_rate, lost.max_rel_error) == (
        1,
        1,
        1,
        1,
    )
    assert lost.sqnr_db == pytest.approx(0, abs=1e-12)
    clipped = study.measure(np.float32([[1.0, 1e6]]), "e4m3")
    assert clipped.saturation_rate == 0.5
    assert study.measure(np.float32([1.0, 2.0]), "bf16").sqnr_db == math.inf


def test_the_histogram_sorts_errors_by_octave() -> None:
    x = np.float32([[1.0, 1.9, 2.0, 0.3]])
    found = study.run({"x": x}, ["e4m3"])
    counts = found.histograms[0, :, 0]
    assert {k - 127: int(n) for k, n in enumerate(counts) if n} == {0: 2, 1: 1, -2: 1}


# --- slabs ---


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.integers(1, 100_000),
)
def test_slabs_cover_a_tensor_once_and_cut_no_group(
    rows: int, cols: int, unit: tuple[int, int], budget: int
) -> None:
    seen = np.zeros((rows, cols), np.int8)
    for r0, r1, c0, c1 in plan(rows, cols, unit, budget):
        assert r0 % unit[0] == 0
        assert c0 % unit[1] == 0
        assert (r1 - r0) * (c1 - c0) <= max(4 * budget, unit[0] * unit[1])
        seen[r0:r1, c0:c1] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("shape", [(500, 300), (3, 5, 77, 130), (100_003,), (2, 40_000), (700, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_slabs_do_not_show_in_the_results(shape: tuple[int, ...], dtype: type) -> None:
    x = {"x": heavy(*shape).astype(dtype)}
    whole = study.run(x, ALL)
    slabs = study.run(x, ALL, slab_elements=2000)
    for spelling in ALL:
        one, many = (vars(s.metrics("x", spelling)) for s in (whole, slabs))
        # All but the order of float64 additions is the same.
        assert many == pytest.approx(one, rel=1e-9, abs=1e-13), spelling
    assert np.array_equal(whole.histograms[:, :, 0], slabs.histograms[:, :, 0])


def test_groups_without_a_common_size_go_over_a_tensor_in_turn() -> None:
    odd = ["e4m3:1x127:f32", "e4m3:1x131:f32", "e4m3:1x137:f32", "e4m3:1x113:f32", "e4m3:tensor:f32"]
    assert len(batches([Scheme.parse(s) for s in odd])) > 1
    x = {"x": heavy(40, 600)}
    together = study.run(x, odd, slab_elements=1000)
    for spelling in odd:
        assert together.metrics("x", spelling) == study.run(x, [spelling], slab_elements=1000).metrics(
            "x", spelling
        )


def test_results_do_not_depend_on_threads_and_threads_are_put_back() -> None:
    before = _core.get_num_threads()
    x = {"x": heavy(300, 500)}
    one, two = (list(study.run(x, ALL, threads=n).records()) for n in (1, 2))
    assert one == two
    assert _core.get_num_threads() == before


# --- inputs ---


def test_what_holds_no_numbers_is_left_out_with_its_reason() -> None:
    nan, inf, far = np.ones((3, 5000), np.float32), np.ones(8, np.float32), np.ones(8)
    nan[1, 7] = nan[2, 4999] = math.nan
    inf[3] = -math.inf
    far[2] = 1e300
    arrays = {
        "good": heavy(8, 8),
        "nan": nan,
        "inf": inf,
        "far": far,
        "scalar": np.float32(1),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(4),
        "codes": np.zeros(4, ml_dtypes.float8_e4m3fn),
    }
    found = study.run(arrays, ["e4m3:tensor:f32", "mxfp4"], slab_elements=1000)
    assert [t.name for t in found.tensors] == ["good"]
    reasons = {s.name: s.reason for s in found.skipped}
    assert reasons.keys() == arrays.keys() - {"good"}
    assert reasons["nan"] == "not finite: 2 NaN"
    assert reasons["inf"] == "not finite: 1 Inf"
    assert reasons["far"] == "not finite: 1 beyond the largest float32"
    assert "0-d" in reasons["scalar"]
    assert reasons["empty"] == "empty"
    assert "int64" in reasons["ids"]
    assert "quantized already" in reasons["codes"]
    assert found.histograms[0, :, 0].sum() == 64


@pytest.mark.parametrize("bad", [np.ma.masked_array([1.0, 2.0], [0, 1]), np.array([1.0, None])])
def test_masked_and_object_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"x: found .*; expected"):
        study.measure(bad, "bf16")


def test_measure_refuses_what_it_cannot_measure() -> None:
    for nothing in (np.float32(1), np.zeros((0,), np.float32), np.arange(3), np.float32([math.nan])):
        with pytest.raises(ValueError, match="x: "):
            study.measure(nothing, "bf16")


def test_strided_and_byte_swapped_arrays_are_read_as_they_are() -> None:
    x = heavy(60, 90)
    plain = study.measure(x[::2, 1::3].copy(), "mxfp8")
    assert study.measure(x[::2, 1::3], "mxfp8") == plain
    assert study.measure(x[::2, 1::3].astype(">f4"), "mxfp8") == plain
    assert study.measure(x.T.copy().T[::2, 1::3], "mxfp8") == plain


def test_globs_select_tensors() -> None:
    arrays = {name: heavy(4, 4) for name in ("a.weight", "a.bias", "b.weight")}
    assert [t.name for t in study.run(arrays, ["bf16"], include=["*.weight"]).tensors] == [
        "a.weight",
        "b.weight",
    ]
    assert [t.name for t in study.run(arrays, ["bf16"], exclude=["a.*"]).tensors] == ["b.weight"]
    with pytest.raises(ValueError, match="no tensor is selected"):
        study.run(arrays, ["bf16"], include=["c.*"])
    with pytest.raises(ValueError, match="at least one"):
        study.run(arrays, [])


@dataclass(frozen=True)
class Halves(Scheme):
    """A scheme of another kind: values rounded to halves."""

    @property
    def group(self) -> tuple[int | None, int | None] | None:
        return None

    def bits(self, rows: int, cols: int) -> int:
        return 5 * rows * cols

    def approximate(self, slab, amax=None, tensor_amax=None):  # type: ignore[no-untyped-def]
        return study.Approximation((np.rint(slab * 2) / 2).astype(np.float32), 0)

    def __str__(self) -> str:
        return "halves"


def test_another_kind_of_scheme_needs_its_four_methods_only(tmp_path: Path) -> None:
    found = study.run({"x": np.linspace(-3, 3, 1000, dtype=np.float32)}, [Halves(), "bf16"])
    total = found.totals()[0]
    assert total.pooled.max_abs_error == pytest.approx(0.25, abs=0.01)
    assert total.pooled.bits_per_element == 5
    found.save(tmp_path)
    assert "`halves`" in (tmp_path / "report.md").read_text()


# --- results ---


def many() -> study.Study:
    arrays = {f"layers.{i}.{kind}.weight": heavy(4, 64, seed=i) for i in range(3) for kind in ("up", "down")}
    arrays["zero"] = np.zeros((2, 2), np.float32)
    arrays["ids"] = np.arange(3)
    return study.run(arrays, ["bf16", "e4m3:1x128:f32", "mxfp4"])


def test_totals_pool_the_elements_and_rank_the_tensors() -> None:
    found = many()
    total = found.totals()[2]
    db = found.sqnr_db()[:, 2]
    assert total.median_sqnr_db == sorted(db)[3]
    assert total.worst_sqnr_db == db.min() == found.metrics(total.worst_tensor, "mxfp4").sqnr_db
    joined = np.concatenate([heavy(4, 64, seed=i) for i in range(3) for _ in ("up", "down")])
    assert total.pooled.sqnr_db == pytest.approx(study.measure(joined, "mxfp4").sqnr_db, rel=1e-12)
    noise = [found.metrics(t.name, "mxfp4").relative_error ** 2 for t in found.tensors if t.name != "zero"]
    assert total.sqnr_db == pytest.approx(-10 * math.log10(sum(noise) / len(noise)), rel=1e-12)
    with pytest.raises(KeyError):
        found.metrics("zero", "nvfp4")


def test_files_say_what_the_study_says(tmp_path: Path) -> None:
    found = many()
    found.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = {
        "results.csv",
        "results.json",
        "report.md",
        "report.html",
        "bits_sqnr.png",
        "error_magnitude.png",
        "sqnr_heatmap.png",
    }
    assert {p.name for p in folder.iterdir()} == names
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: str(v) for k, v in r.items()} for r in found.records()] == rows

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((folder / "results.json").read_text(), parse_constant=refuse)
    assert content["partial"] is None
    assert content["settings"]["schemes"] == ["bf16", "e4m3:1x128:f32", "mxfp4"]
    assert {"python", "numpy", "ml_dtypes", "dsv3_numerics"} <= content["settings"]["versions"].keys()
    assert content["settings"]["simd_level"] == _core.simd_level()
    assert [t["name"] for t in content["tensors"]] == [t.name for t in found.tensors]
    assert content["tensors"][-1]["results"]["bf16"]["sqnr_db"] is None
    exact = found.metrics("layers.0.up.weight", "mxfp4")
    assert content["tensors"][0]["results"]["mxfp4"] == vars(exact)
    report = (folder / "report.md").read_text()
    assert "(sqnr_heatmap.png)" in report
    assert "`ids`" in report
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = "a|b`c\x1b[31m$x$[bold]\n"
    found = study.run({name: heavy(4, 4), "twin": heavy(4, 4, seed=1)}, ["mxfp4", "bf16"])
    found.save(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "\x1b" not in report
    from rich.console import Console

    from dsv3_numerics.study.tables import worst_table

    console = Console(width=120, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(found.table())
    console.print(worst_table(found))
    console.file.close()
    assert "\x1b" not in (tmp_path / "out").read_text()


@pytest.mark.parametrize(("count", "plots"), [(1, 2), (2, 3), (300, 3)])
def test_plots_of_few_and_of_many_tensors(tmp_path: Path, count: int, plots: int) -> None:
    """One tensor has no map of tensors beside each other."""
    arrays = {f"layers.{i}.{'weight' if i % 3 else 'bias'}": heavy(2, 32, seed=i) for i in range(count)}
    study.run(arrays, ["e4m3:1x128:f32", "mxfp4"]).save_plots(tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == plots


def test_plots_of_exact_results(tmp_path: Path) -> None:
    study.run({"zero": np.zeros((2, 2), np.float32)}, ["bf16", "mxfp4"]).save_plots(tmp_path)


def test_like_names_have_one_pattern() -> None:
    assert (
        layer_pattern("model.layers.10.mlp.experts.255.up_proj.weight")
        == "model.layers.*.mlp.experts.*.up_proj.weight"
    )
    assert layer_pattern("conv1.weight2") == "conv1.weight2"


def test_the_synthetic_set_is_what_it_says() -> None:
    first, again = synthetic(), synthetic()
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert sum(x.size for x in first.values()) == pytest.approx(4.5e6, rel=0.01)
    rows = first["embed.rare_words"]
    assert (rows == 0).mean() > 0.6
    assert not rows[1].any()
    channels = np.abs(first["activations.after_norm"]).max(axis=0)
    assert (channels > 5 * np.median(channels)).sum() == 512 // 64
    assert (format_info("float8_e4m3fn").max, len(first)) == (448.0, 11)
