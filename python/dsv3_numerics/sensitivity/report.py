"""The report: one Markdown page: what came out, pictures, tables, how to read them, how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..report import provenance
from ..report.page import findings_section, made_section, picture_sections, table_section
from ..report.text import plain
from .findings import findings
from .result import SensitivityData
from .tables import costs_shown, tables

HOW_TO_READ = """\
**Three views of one recipe.** *Operation by operation*: the float64 forward runs once, and each operation
is done again, on the very same inputs, as the recipe would do it. *Layer by layer*: each layer gets the
input that it has in the float64 forward. *The logits*: the recipe runs freely, every layer on what the one
before made. The first says where error is made, the second what a layer makes of it, the third what is left
of it at the end.

**Alone, and without.** A choice *alone* is float64 everywhere but there: what that choice does by itself.
*Without* is the whole recipe but for it: what one would gain by giving it up. The two differ. Where one
choice spoils the digits that another would have spoiled as well, both look dear alone and neither is a gain
when it goes; and some choices protect: a gate in float32 beside bf16 makes things better, so
that going without it costs.

**Distributions, not a number.** In FP8 a value is one of 256 codes. A change of relative size e moves a
share e/d of the values into another code, where d is the distance of codes (about 6 % in E4M3), and each of
those moves by d: what was an error of e before a cast is one of about the square root of e d after it. A
few casts in a row make d of anything, and a token that goes to another expert moves by more. So two runs
that are equal in exact arithmetic end up about as far from each other as from float64, and any figure of
one run is partly luck. That is why each figure here is a distribution over tokens, and why the recipe was
run several times on embeddings that were perturbed by last places: how much these runs differ is the *noise
floor*, and a choice that changes less than that is not known to change anything.

**KL** is the Kullback-Leibler divergence of the next token's probabilities, KL(float64 || run), in nats,
from float64 logarithms: 0.01 is a small change of the probabilities, 1 is another distribution. It does not
see what changes no probability. **SQNR** is the size of the logits over the size of their error: 20 dB is
an error of 10 %, 40 dB of 1 %. **Same top-1** is the share of tokens whose likeliest next token is the
same; in a model whose probabilities are flat it falls early. **Increment** is what a layer adds to the
residual stream. The stream itself passes through a layer unharmed, and hides what the layer does wrong.

**What float64 is here.** The reference takes the checkpoint's weights for what they mean: of FP8 weights,
code times scale, exactly. So a choice of weights that keeps the stored codes costs nothing; what quantizing
cost when the checkpoint was made is not in these figures. Multi-token prediction is left out, since the
logits do not depend on it.
"""


def lines(result: SensitivityData, plots: Mapping[str, str]) -> Iterator[str]:
    """Yield the report; `plots` are the pictures to show, file name by title."""
    yield f"# What {result.recipe.name} costs, and where"
    yield ""
    if result.partial:
        missing = sum(len(v.parts) for v in result.variants) - len(result.parts)
        yield f"> **Partial: {result.partial}.** {missing} parts are missing; the same command continues."
        yield ""
    for note in result.notes:
        yield f"> **{note}**"
        yield ""
    yield from findings_section(findings(result))
    costs = costs_shown(result)
    if costs.rows:
        yield from table_section(costs)
    yield from picture_sections(plots)
    for table in tables(result):
        yield from table_section(table)
    yield "## How to read this"
    yield ""
    yield HOW_TO_READ
    yield "## The recipe"
    yield ""
    yield "```"
    yield str(result.recipe)
    yield "```"
    yield ""
    yield from _made(result)


def _made(result: SensitivityData) -> Iterator[str]:
    s = result.settings
    ids = s.get("ids", [])
    facts = {
        "model": plain(str(s.get("source", ""))),
        "model's digest": s.get("model", ""),
        "tokens": f"{len(ids)} x {len(ids[0])}" if ids else "",
        "attention": "absorbed" if s.get("absorbed") else "naive",
        **dict(provenance.facts(s)),
        "time of the last run": f"{result.seconds:.1f} s",
    }
    yield from made_section(facts)
