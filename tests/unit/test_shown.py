"""Results as people see them: pages of HTML, plots into axes, tables in notebooks and terminals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import sensitivity, study
from dsv3_numerics.report.html import document
from dsv3_numerics.report.terminal import rich_table
from dsv3_numerics.sensitivity import Sensitivity
from dsv3_numerics.study import Study


def values(seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(64, 96)).astype(np.float32)


@pytest.fixture(scope="module")
def errors() -> Study:
    return study.run({"<b>a</b>": values(), "b|c": values() ** 3}, ["bf16", "mxfp4"])


@pytest.fixture(scope="module")
def costs() -> Sensitivity:
    model = sensitivity.random_model()
    return sensitivity.run(model, [3, 1, 4], d3.Recipe(cache="bf16", combine="logfmt8"), perturbations=2)


@pytest.fixture(autouse=True)
def _no_figure_is_left() -> Iterator[None]:
    from matplotlib import pyplot

    yield
    pyplot.close("all")


def whole(text: str) -> None:
    """One file, for light and dark, that loads nothing."""
    assert text.startswith("<!doctype html>")
    assert text.endswith("</body></html>\n")
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert "@import" not in text


def test_a_study_is_one_page(errors: Study, tmp_path: Path) -> None:
    """All pictures are in it, in the colour of its text; names are no markup; the same bytes again."""
    text = errors.to_html(tmp_path / "report.html").read_text()
    whole(text)
    assert text.count("<svg ") == 3
    assert "currentColor" in text
    assert "<b>a" not in text
    assert errors.to_html(tmp_path / "again.html").read_text() == text


def test_a_study_of_nothing_is_a_page_too(tmp_path: Path) -> None:
    text = Study(()).to_html(tmp_path / "report.html").read_text()
    whole(text)
    assert "<svg" not in text


def test_an_analysis_is_one_page(costs: Sensitivity, tmp_path: Path) -> None:
    costs.save(tmp_path)
    text = (tmp_path / "report.html").read_text()
    whole(text)
    assert text.count("<svg ") == sum(1 for _ in tmp_path.glob("*.png"))


def test_titles_are_text() -> None:
    assert "<title>a &lt;b&gt;</title>" in document("a <b>", ["c"])


def test_plots_of_a_study_draw_into_given_axes(errors: Study) -> None:
    from matplotlib import pyplot

    _, grid = pyplot.subplots(1, 3)
    for axes, plot in zip(grid, (errors.plot_bits, errors.plot_magnitudes, errors.plot_tensors), strict=True):
        assert plot(ax=axes) is axes
        assert axes.has_data()
        assert plot() is not axes
    with pytest.raises(LookupError, match="its own median"):
        study.run({"a": values()}, ["bf16"]).plot_tensors()


def test_plots_of_an_analysis_draw_into_given_axes(costs: Sensitivity) -> None:
    from matplotlib import pyplot

    plots: list[Callable[..., Any]] = [costs.plot_costs, costs.plot_tokens, costs.plot_layers]
    plots += [costs.plot_experts, costs.plot_operations]
    _, grid = pyplot.subplots(1, len(plots))
    for axes, plot in zip(grid, plots, strict=True):
        assert plot(ax=axes) is axes
        assert axes.has_data()
        assert plot() is not axes
    assert "SQNR" in costs.plot_costs("relative_error").get_xlabel()
    with pytest.raises(ValueError, match="metric: found 'sqnr', expected one of kl_nats"):
        costs.plot_costs("sqnr")
    with pytest.raises(ValueError, match="part: found 'free'"):
        costs.plot_experts("free")


def test_the_exact_choice_stands_at_the_best_end(costs: Sensitivity) -> None:
    """On the left of KL, on the right of SQNR."""
    found = sensitivity.run(sensitivity.random_model(), [3, 1], d3.Recipe(combine="bf16"), perturbations=0)
    for metric, side in (("kl_nats", "left"), ("relative_error", "right")):
        axes = found.plot_costs(metric)
        words = [t for t in axes.texts if t.get_text() in ("exact", "nothing", "< 1e-9", "> 120 dB")]
        assert all(word.get_horizontalalignment() == side for word in words)


SHOWN: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: d3.format_info("e4m3"), ("Machine parameters for float8_e4m3fn", "448.0")),
    (lambda: d3.Recipe.preset("deepseek_v3"), ("deepseek_v3", "hopper_fp8")),
    (lambda: d3.quantize_tiles(values()), ("Quantized", "float8_e4m3fn")),
    (lambda: d3.logfmt_encode(values(), bits=8), ("LogFmt",)),
    (lambda: study.run({"a": values()}, ["bf16", "mxfp4"]), ("Study of 1 tensor, ", "<th>mxfp4</th>")),
]


@pytest.mark.parametrize(("make", "words"), SHOWN)
def test_notebooks_show_a_table(make: Callable[[], Any], words: tuple[str, ...]) -> None:
    text = make()._repr_html_()
    assert text.startswith("<table><caption>")
    assert text.count("<tr>") == text.count("</tr>") > 1
    assert all(word in text for word in words)


def test_notebooks_show_an_analysis(costs: Sensitivity) -> None:
    text = costs._repr_html_()
    assert "<th>cache</th>" in text
    assert "<th>choice</th>" in text


# --- terminals ---


def printed(table: Any, width: int) -> list[str]:
    from io import StringIO

    from rich.console import Console

    stream = StringIO()
    Console(width=width, file=stream).print(table)
    return stream.getvalue().splitlines()


WORDS = ["e4m3:1x128:f32", "deepseek_v3", "31.9", "transformer_engine_nvfp4", "0.01%", "clipped"]


@pytest.mark.parametrize("width", [40, 60, 61, 72, 80, 100, 120, 200])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("options", [{}, {"padding": (0, 1, 0, 0)}, {"show_lines": True}])
def test_no_terminal_breaks_a_word(width: int, count: int, options: dict[str, Any]) -> None:
    """A table shows each word whole, or names the column that it left out, in lines that fit."""
    columns = [f"column{i}" for i in range(count)]
    rows = [[WORDS[(i + j) % len(WORDS)] for i in range(count)] for j in range(7)]
    table = rich_table(columns, rows, title="seven rows", **options)
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    note = text.partition("Not shown for want of width:")[2]
    for i, column in enumerate(columns):
        if re.search(rf"{column}\b", note):
            assert i >= 3
            continue
        assert column in text or i == 0
        assert all(row[i] in text for row in rows)


def test_names_fold_into_long_pieces_where_they_may() -> None:
    name = "model.layers.17.mlp.shared_experts.down_proj.weight_scale_inv"
    table = rich_table([("tensor", {"overflow": "fold"}), "under", "SQNR"], [[name, "nvfp4", "20.5"]])
    lines = printed(table, 60)
    assert max(map(len, lines)) <= 60
    pieces = [line.split()[0] for line in lines[3:] if line.strip()]
    assert "".join(pieces) == name
    assert len(pieces[0]) >= 24


@pytest.mark.parametrize("row", [[], ["[bold]a[/bold]", "\x1b"]])
def test_empty_tables_and_odd_cells_are_shown(row: list[str]) -> None:
    from rich.text import Text

    table = rich_table(["one", "two"], [[Text(cell) for cell in row]] if row else [])
    for width in (8, 20, 80):
        assert printed(table, width)
