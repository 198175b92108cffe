"""The report: one Markdown page, the answers first, then the pictures, how to read them, how it was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..report import provenance
from ..report.drawing import drawn_svg
from ..report.files import write_lines
from ..report.html import write_html
from ..report.page import made_section, markdown, picture_sections
from ..report.text import code, counted, decibels, plain, share
from .plots import PLOTS
from .result import StudyData, Total
from .tables import COLUMNS, kind_rows, total_rows, worst_rows

HOW_TO_READ = """\
**SQNR** (signal to quantization noise, in decibels) is the size of the values over the size of the error.
20 dB is an error of 10 % of the signal, 40 dB of 1 %; one more bit of precision is worth 6 dB. *SQNR* in the
table averages the noise of all tensors, each relative to its own size and weighted by its number of elements;
*median* and *worst* count each tensor once.

**bits** is storage per element with the scales in it: `e4m3:1x128:f32` is 8 bits and a 32-bit scale for 128
elements, 8.25.

**bias** is the sum of the signed errors over the sum of the magnitudes: rounding that drifts one way shows
here, and it adds up in long sums where random errors cancel. **to zero** is the share of elements that were
not zero and became zero: too small for their group's scale. **clipped** is the share beyond the format's
largest value after scaling, by more than half a step: mx scales, which are powers of two rounded down, clip;
scales made of the largest value do not.

**A scheme** is spelled `format:group:scale[:rule]`. `1x128`: each run of 128 elements of a row has its own
scale; `128x128`: each square block; `row`, `col`, `tensor`: as they say. `f32` scales are exact, `ue8m0`
scales are powers of two; `mx` and `nvfp4` follow their standards. `logfmt8:1x128` has no scale: each tile
keeps its least and largest magnitude (two float32), and 8-bit codes are evenly spaced between them in the
logarithm. `logfmt10:deepep` is what DeepEP's kernel would send: chunks with a magnitude of 1 or more go as
BF16, so that its *bits* are those of these very values.

**Floating-point formats** keep a constant *relative* error over many octaves and then fall off; **integers**
keep a constant *absolute* error, which is excellent for a group's large values and poor for its small ones.
**LogFMT** keeps one relative error over just the octaves that a tile spans: fine where they are few, coarse
where they are many. Which is better depends on how the values spread within a group: that is what *Which
magnitudes lose their precision?* shows, with the share of the elements below it.

SQNR says how well numbers are kept, not how well a network works: use it to compare schemes and to find
tensors that need care.
"""

ABOUT_KINDS = """\
Inputs of linear layers, each once: *attention input* is what q and kv are made of, after the norm; *query
latent* and *key-value latent* are what the compressed attention expands; *attention output* is what o_proj
takes; *MLP input* and *MoE input* are what the norm before them makes (what is dispatched to experts);
*SwiGLU output* is what down_proj takes, in dense layers and in each expert; *head input* is the final norm.
A kind that loses under coarser groups (`row`, `tensor`) has some values much larger than the others; one that
loses under `int8` and `mxfp4` spreads over many octaves.
"""

_CAPTIONS = {
    "Bits against SQNR": "Up and left is better. The line joins the schemes that no other beats in both.",
    "Error against magnitude": "A flat line is a floating-point format within its range; where a line "
    "rises to the left, small values are being lost.",
    "SQNR by scheme and tensor": "Red tensors lose more than is usual for the scheme, blue ones less; "
    "the hardest are on top.",
}


def write_markdown(study: StudyData, path: Path, plots: Mapping[str, str]) -> Path:
    """Write the report; `plots` are the pictures to show, file name by title."""
    return write_lines(_lines(study, plots), path)


def write_page(study: StudyData, path: Path) -> Path:
    """Write the report as one page of HTML with its pictures in it."""
    pictures = drawn_svg(study, PLOTS) if study.tensors else {}
    names = {title: name for title, (name, _) in PLOTS.items() if name in pictures}
    return write_html(_lines(study, names), pictures, path)


def _lines(study: StudyData, plots: Mapping[str, str]) -> Iterable[str]:
    yield "# Quantization error study"
    yield ""
    if study.partial:
        selected = study.settings.get("tensors_selected")
        of_all = "" if selected is None else f" of {selected}"
        yield f"> **Partial: {study.partial}.** {len(study.tensors)}{of_all} tensors were finished."
        yield ""
    for note in study.remarks():
        yield f"> {note}"
        yield ""
    sizes = (len(study.tensors), "tensor"), (study.elements, "element"), (len(study.schemes), "scheme")
    yield ", ".join(counted(*size) for size in sizes) + "."
    yield ""
    yield from _left_out(study)
    if study.tensors:
        yield from _answers(study)
    yield from picture_sections(plots, _CAPTIONS)
    yield "## How to read this"
    yield ""
    yield HOW_TO_READ
    yield from _skipped(study)
    yield from _made(study)


def _answers(study: StudyData) -> Iterable[str]:
    rows = total_rows(study)
    best = _best_for_bits([total for total, _ in rows])
    yield "## Totals by scheme"
    yield ""
    yield "SQNR in dB. In bold: no other scheme here has a higher SQNR with as few bits."
    yield ""
    yield from markdown(
        [name for name, _ in COLUMNS],
        [[f"**`{texts[0]}`**" if total in best else f"`{texts[0]}`", *texts[1:]] for total, texts in rows],
    )
    if study.kinds:
        yield from _by_kind(study)
    hardest = worst_rows(study)
    if hardest:
        yield "## Hardest tensors"
        yield ""
        yield "Furthest below the median of a scheme, each tensor once."
        yield ""
        yield from markdown(
            ["tensor", "under", "SQNR dB", "scheme's median"],
            [
                [code(name), f"`{scheme}`", decibels(db), decibels(median)]
                for name, scheme, db, median in hardest
            ],
        )


def _by_kind(study: StudyData) -> Iterable[str]:
    against = "against" in study.settings
    counts = {kind: sum(t.kind == kind for t in study.tensors) for kind in study.kinds}
    yield "## By format of the stored codes" if against else "## By kind of activation"
    yield ""
    yield "SQNR in dB, best over all first; in parentheses how many tensors there are of a kind."
    yield ""
    header = ["scheme", *(f"{kind} ({n})" for kind, n in counts.items())]
    yield from markdown(header, [[f"`{scheme}`", *texts] for scheme, texts in kind_rows(study)])
    if not against:
        yield ABOUT_KINDS


def _best_for_bits(totals: list[Total]) -> list[Total]:
    """Totals that no other beats: best SQNR first, each of them has fewer bits than those before."""
    best: list[Total] = []
    fewest = math.inf
    for total in totals:
        if total.pooled.bits_per_element < fewest:
            best.append(total)
            fewest = total.pooled.bits_per_element
    return best


def _left_out(study: StudyData) -> Iterable[str]:
    """Tell what the totals say nothing of, by reason."""
    groups = study.left_out()
    if not groups:
        return
    yield "Left out:"
    yield ""
    yield from markdown(
        ["reason", "tensors", "elements", "share", "such as"],
        [
            [plain(g.reason), str(g.tensors), f"{g.elements:,}", share(g.share), code(g.example)]
            for g in groups
        ],
    )


def _skipped(study: StudyData) -> Iterable[str]:
    if not study.skipped:
        return
    yield "## Left out"
    yield ""
    few = study.skipped[:40]
    yield from markdown(["tensor", "reason"], [[code(s.name), plain(s.reason)] for s in few])
    if len(study.skipped) > len(few):
        yield f"{len(study.skipped) - len(few)} more are in `results.json`."
        yield ""


def _made(study: StudyData) -> Iterable[str]:
    s = study.settings
    rate = study.elements * len(study.schemes) / study.seconds / 1e6 if study.seconds else 0
    facts = {
        "inputs": ", ".join(f"`{plain(str(i))}`" for i in s.get("inputs", [])[:10]),
        "against": f"`{plain(s['against'])}`" if "against" in s else "",
        "include / exclude": " ".join(
            f"`{plain(g)}`" for g in [*s.get("include", []), *s.get("exclude", [])]
        ),
        "tokens": f"{s['tokens']:,}" if "tokens" in s else "",
        **dict(provenance.facts(s)),
        "time": f"{study.seconds:.1f} s ({rate:.0f} million elements and schemes a second)",
    }
    yield from made_section(facts)
