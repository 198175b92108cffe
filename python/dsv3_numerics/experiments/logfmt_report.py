"""Experiment ``logfmt``: its tables, findings and plots, and the figures that others have published."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..report import charts
from ..report.page import ReportTable
from ..report.text import decibels, share
from . import logfmt
from .draws import ACTIVATIONS
from .experiment import Experiment, ExperimentData, PublishedFigure, Row, pivot
from .wire import FLOATS, LOGFMT, colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLAIN = [w.name for w in FLOATS] + [w.name for w in LOGFMT if not w.name.endswith("log")]
_ABOUT = {d.name: d.about for d in ACTIVATIONS} | {logfmt.WEIGHTS: "the demo's weights"}


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def _signed(value: float) -> str:
    return f"{100 * value:+.3f}%"


def _octaves(value: float) -> str:
    return f"{value:.1f} octaves"


STEP = 32 * math.log(2) / 126
_BELL = [f"-s²/12 = {_signed(-(STEP**2) / 12)}", f"s²/24 = {_signed(STEP**2 / 24)}"]
_LAWS = {
    "flat": ["0", f"s²/8 = {_signed(STEP**2 / 8)}"],
    "half-normal": _BELL,
    "exponential": _BELL,
}


def _cell(row: Row) -> str:
    db, mean = row["sqnr_db"], row["mean_relative_error"]
    assert isinstance(db, float)
    assert isinstance(mean, float)
    return "exact" if db == math.inf else f"{decibels(db)}, {_percent(mean)}"


def _number(row: Row, column: str) -> float:
    value = row[column]
    return float(value) if isinstance(value, int | float) else math.nan


def _shown(column: str, form: Callable[[float], str]) -> Callable[[Row], str]:
    """Cell of a pivoted table."""
    return lambda row: form(_number(row, column))


def tables(result: ExperimentData) -> Iterator[ReportTable]:
    """Errors by data and format; roundings of LogFMT; spans of tiles; bits; DeepEP's fallback; the sweep."""
    spans = [
        [
            str(row["data"]),
            _ABOUT[str(row["data"])],
            *(f"{_number(row, c):.1f}" for c in ("median", "low", "high")),
        ]
        for row in result.select("spans")
    ]
    yield ReportTable(
        "The data: octaves between a tile's least and largest magnitude",
        ["", "values", "median", "5 % of tiles have less", "5 % have more"],
        spans,
        "Zeros take no part. The synthetic ones are in bfloat16 precision, as activations are.",
    )
    header, rows = pivot(result, "data", "data", "sent_as", _cell)
    keep = [i for i, name in enumerate(header) if not name or name in _PLAIN]
    yield ReportTable(
        "SQNR in dB, and mean relative error",
        [header[i] for i in keep],
        [[row[i] for i in keep] for row in rows],
        "Tiles of 128. Of all elements: each counts with its square in the SQNR, alike in the mean.",
    )
    header, rows = pivot(result, "data", "data", "sent_as", _shown("bits_per_element", "{:.2f}".format))
    yield ReportTable(
        "Bits per element, as sent",
        [header[i] for i in keep],
        [[row[i] for i in keep] for row in rows],
        "With scales. LogFMT's two magnitudes per tile are float32 here; DeepEP sends them as BF16, and "
        "in BF16 the chunks that do not fit.",
    )
    header, rows = pivot(result, "bias", "density", "rounding", _shown("magnitude_bias", _signed))
    yield ReportTable(
        "LogFMT-8's bias at the full range of 32 octaves",
        [*header, "law, linear", "law, log"],
        [[*row, *_LAWS[row[0]]] for row in rows],
        "How much larger magnitudes become on average; the step s is 0.176. Nearest in linear space is "
        "unbiased only where the density is flat; where it vanishes at the ends, log space is half as "
        "biased.",
    )
    header, rows = pivot(result, "span", "octaves", "sent_as", _shown("rms_relative_error", _percent))
    yield ReportTable(
        "Tiles of a given span: root mean square of the relative error",
        ["octaves", *header[1:]],
        rows,
        "Values uniform in their logarithm; of those that are normal numbers of E4M3 (within 14.8 octaves).",
    )
    yield ReportTable(
        "DeepEP's fallback: LogFMT-10 on normal data of different size",
        ["standard deviation", "chunks sent in BF16", "bits per element", "SQNR dB"],
        [
            [
                f"{_number(row, 'deviation'):g}",
                share(_number(row, "escaped")),
                f"{_number(row, 'bits_per_element'):.2f}",
                decibels(_number(row, "sqnr_db")),
            ]
            for row in result.select("size")
        ],
        "A chunk of 1024 channels with one magnitude of 1 or more is sent as it is.",
    )


# --- findings ---


def _db(result: ExperimentData, data: str, name: str) -> float:
    return result.value("sqnr_db", "data", data=data, sent_as=name)


def _wins(result: ExperimentData) -> str:
    gains = {d: _db(result, d, "LogFMT-8") - _db(result, d, "E4M3") for d in result.kinds("data", "data")}
    listed = ", ".join(f"{d} {g:+.1f}" for d, g in gains.items())
    return (
        f"LogFMT-8's SQNR less E4M3's (float32 scales, same tiles), in dB: {listed}. The wider the tiles, "
        "the less it wins."
    )


def _rounding(result: ExperimentData) -> str:
    gaps = [
        _db(result, d, name) - _db(result, d, f"{name}, log")
        for d in result.kinds("data", "data")
        for name in ("LogFMT-8", "LogFMT-10")
    ]
    return f"Rounding in linear rather than log space is worth {min(gaps):.2f} to {max(gaps):.2f} dB here."


def _bias(result: ExperimentData) -> str:
    linear, log, stochastic = (
        result.value("magnitude_bias", "bias", density="half-normal", rounding=how)
        for how in ("linear", "log", "stochastic")
    )
    return (
        "At the full range, LogFMT-8 changes the mean of half-normal magnitudes by "
        f"{_signed(linear)} with linear rounding, {_signed(log)} with log rounding and "
        f"{_signed(stochastic)} with stochastic rounding."
    )


def _spans(result: ExperimentData) -> str:
    rms = crossing(result, "rms_relative_error")
    worst = crossing(result, "worst_relative_error")
    return (
        f"LogFMT-8 is finer than E4M3 while a tile spans less than {rms:.1f} octaves (root mean square) or "
        f"{worst:.1f} (worst case), and coarser beyond: of values that are normal numbers of E4M3."
    )


def _full_range(result: ExperimentData) -> str:
    of = partial(result.value, part="span", octaves=32)
    eight, four = (of("worst_relative_error", sent_as=n) for n in ("LogFMT-8", "E4M3"))
    lost = of("became_zero", sent_as="E4M3")
    return (
        f"At the full 32 octaves LogFMT-8's worst relative error is {_percent(eight)} against E4M3's "
        f"{_percent(four)}. But E4M3 turns {share(lost)} of these values into zero, LogFMT "
        f"{share(of('became_zero', sent_as='LogFMT-8')).replace('0', 'none', 1)}."
    )


def _zeros(result: ExperimentData) -> str:
    paper, deepep = (_db(result, "one zero", n) for n in ("LogFMT-8", "LogFMT-8, DeepEP"))
    return (
        f"One exact zero in a tile costs nothing by the paper's rule ({paper:.1f} dB). By DeepEP's, zeros "
        f"take part in the minimum and the span becomes 32 octaves: {deepep:.1f} dB, {paper - deepep:.1f} "
        f"less, and less than E4M3's {_db(result, 'one zero', 'E4M3'):.1f}."
    )


def _ten(result: ExperimentData) -> str:
    names = [d.name for d in ACTIVATIONS]
    gaps = [_db(result, d, "LogFMT-10") - _db(result, d, "E5M6 2^k") for d in names]
    return (
        f"LogFMT-10 has {min(gaps):.1f} to {max(gaps):.1f} dB more than 12-bit E5M6 on the activations. "
        "Neither is lossless for BF16 data, where BF16 itself is exact."
    )


def _fallback(result: ExperimentData) -> str:
    small, large, unit = (
        share(result.value("escaped", "size", deviation=d)).replace("100.0%", "all")
        for d in (0.0625, 0.25, 1.0)
    )
    return (
        "DeepEP encodes only chunks whose largest magnitude is below 1. Share of the tiles of normal data "
        f"that go out in BF16, by standard deviation: 1/16 {small}, 1/4 {large}, 1 {unit}."
    )


def crossing(result: ExperimentData, column: str) -> float:
    """Return the span at which LogFMT-8's error reaches E4M3's, interpolated between those tried.

    Only where the tile is wide enough for E4M3's error to be that of all its phases (8 octaves and more).
    """
    spans = [s for s in result.kinds("octaves", "span") if s >= 8]
    gaps = []
    for span in spans:
        eight, four = (result.value(column, "span", octaves=span, sent_as=n) for n in ("LogFMT-8", "E4M3"))
        gaps.append(eight - four)
    for i in range(1, len(gaps)):
        if gaps[i - 1] < 0 <= gaps[i]:
            part = gaps[i - 1] / (gaps[i - 1] - gaps[i])
            return float(spans[i - 1] + part * (spans[i] - spans[i - 1]))
    raise LookupError("the errors do not cross")


# --- published figures: SQNR in dB and, where given, mean relative error ---

_PUBLISHED: tuple[tuple[str, str, float, float | None], ...] = (
    ("normal", "E4M3", 31.8, 0.0224),
    ("normal", "E4M3 2^k", 31.5, None),
    ("normal", "E5M2", 25.8, 0.0446),
    ("normal", "E5M6 2^k", 47.8, 0.0028),
    ("normal", "LogFMT-8", 37.0, 0.0122),
    ("normal", "LogFMT-10", 49.2, 0.0030),
    ("laplace", "E4M3", 32.1, 0.0224),
    ("laplace", "E4M3 2^k", 31.5, None),
    ("laplace", "E5M2", 26.1, None),
    ("laplace", "E5M6 2^k", 47.8, None),
    ("laplace", "LogFMT-8", 36.2, 0.0139),
    ("laplace", "LogFMT-10", 48.3, 0.0034),
    ("lognormal", "E4M3", 41.0, 0.0232),
    ("lognormal", "E4M3 2^k", 31.1, None),
    ("lognormal", "E5M2", 34.9, None),
    ("lognormal", "E5M6 2^k", 47.3, None),
    ("lognormal", "LogFMT-8", 41.2, 0.0203),
    ("lognormal", "LogFMT-10", 53.4, 0.0050),
    ("one zero", "E4M3", 31.8, None),
    ("one zero", "LogFMT-8", 37.0, None),
    ("one zero", "LogFMT-10", 49.2, None),
    ("one zero", "LogFMT-8, DeepEP", 26.2, 0.0436),
    ("one zero", "LogFMT-10, DeepEP", 38.3, 0.0108),
)


def _published() -> Iterator[PublishedFigure]:
    def figure(column: str, data: str, name: str) -> Callable[[ExperimentData], float]:
        return lambda result: result.value(column, "data", data=data, sent_as=name)

    for data, name, db, mean in _PUBLISHED:
        yield PublishedFigure(f"{data}, {name}: SQNR, dB", db, figure("sqnr_db", data, name), decibels)
        if mean is not None:
            what = f"{data}, {name}: mean relative error"
            yield PublishedFigure(what, mean, figure("mean_relative_error", data, name), _percent)
    for data, octaves in (("normal", 8.7), ("laplace", 9.9), ("lognormal", 14.9)):
        median: Callable[[ExperimentData], float] = partial(
            ExperimentData.value, column="median", part="spans", data=data
        )
        yield PublishedFigure(f"{data}: median span of a tile", octaves, median, _octaves)
    for rounding, bias in (("linear", -0.00257), ("log", 0.00127)):
        drift: Callable[[ExperimentData], float] = partial(
            ExperimentData.value,
            column="magnitude_bias",
            part="bias",
            density="half-normal",
            rounding=rounding,
        )
        yield PublishedFigure(f"half-normal, full range, {rounding} rounding: bias", bias, drift, _signed)
    for what, column, octaves in (
        ("root mean square", "rms_relative_error", 16.7),
        ("worst case", "worst_relative_error", 21.4),
    ):
        reach: Callable[[ExperimentData], float] = partial(crossing, column=column)
        yield PublishedFigure(f"LogFMT-8 finer than E4M3 up to ({what})", octaves, reach, _octaves)
    for name, worst in (("LogFMT-8", 0.088), ("E4M3", 0.059)):
        full: Callable[[ExperimentData], float] = partial(
            ExperimentData.value, column="worst_relative_error", part="span", octaves=32, sent_as=name
        )
        yield PublishedFigure(f"32 octaves, {name}: worst relative error", worst, full, _percent)


# --- plots ---


def _by_data(result: ExperimentData, figure: Figure) -> None:
    """SQNR of each format on each kind of data."""
    figure.set_size_inches(10, 5.6)
    axes = figure.add_subplot()
    names = result.kinds("data", "data")
    series = {
        name: {
            str(row["data"]): float(db)
            for row in result.select("data", sent_as=name)
            if isinstance(db := row["sqnr_db"], float) and math.isfinite(db)
        }
        for name in _PLAIN
    }
    charts.dots(axes, names, {n: v for n, v in series.items() if v}, colours(series))
    axes.set_xlabel("SQNR, dB (BF16 is exact on the activations, which are BF16 values)")
    axes.set_title("LogFMT beside floating-point formats, tiles of 128")
    charts.legend(axes)


def _by_span(result: ExperimentData, figure: Figure) -> None:
    """Error against the span of the tile, with the span at which LogFMT-8 and E4M3 cross."""
    figure.set_size_inches(11, 5.4)
    left, right = figure.subplots(1, 2)
    names = result.kinds("sent_as", "span")
    styles = colours(names)
    for axes, column in ((left, "rms_relative_error"), (right, "sqnr_db")):
        series = {}
        for name in names:
            rows = list(result.select("span", sent_as=name))
            series[name] = ([_number(r, "octaves") for r in rows], [_number(r, column) for r in rows])
        charts.draw_lines(axes, series, styles)
        axes.set_xlim(0, max(xs[-1] for xs, _ in series.values()) * 1.02)
        axes.set_xlabel("span of the tile, octaves")
        if axes is left:
            axes.set_yscale("log")
            charts.percent_axis(axes.yaxis)
        charts.name_ends(axes, series, styles)
    try:
        at = crossing(result, "rms_relative_error")
        left.axvline(at, color=charts.GREY, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        left.annotate(
            f"{at:.1f}", (at, 0.02), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
            color="#666666", fontsize=9,
        )  # fmt: skip
    except LookupError:
        pass
    left.set_title("Relative error (RMS)\nof E4M3's normal numbers", fontsize=11)
    right.set_title("SQNR, dB\nof all values", fontsize=11)


EXPERIMENT = Experiment(
    name="logfmt",
    title="LogFMT beside floating-point formats",
    shows="What LogFMT-8 and LogFMT-10 lose, beside E4M3, E5M2, E5M6 and BF16 in the same tiles of 128, "
    "and for which tiles that is less.",
    source="ISCA '25 paper (arXiv 2505.09343), section 3.2; DeepEP's low-latency combine kernel",
    jobs=logfmt.jobs,
    tables=tables,
    findings=(_wins, _rounding, _bias, _spans, _full_range, _zeros, _ten, _fallback),
    published=tuple(_published()),
    plots={
        "Where LogFMT wins, by data": ("by_data.png", _by_data),
        "Where LogFMT wins, by span of the tile": ("by_span.png", _by_span),
    },
)
