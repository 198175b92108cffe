"""Parts of ``codesign`` on one model: kv, flops, ep, roofline, mtp, tradeoff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .codesign_options import CONFIG, MTP, finish, integers, numbers, on_machine, outputs, recipe_formats
from .options import PATH, files_option


@click.command("kv")
@CONFIG
@click.option("--tokens", default="1", show_default=True, metavar="N[,N]", help="Tokens of a sequence.")
@click.option("--cache", multiple=True, metavar="FORMAT", help="Repeatable  [default: all it can have]")
@click.option("--index", metavar="FORMAT", help="Of index keys: bf16, fp8, fp4  [default: by the cache]")
@click.option("--window", metavar="FORMAT", help="Of DeepSeek-V4's window rows  [default: the cache's]")
@click.option("--memory", type=int, metavar="BYTES", help="How many tokens fit?")
@MTP
@outputs
def kv_command(config: str, tokens: str, as_json: bool, out: Path | None, **options: Any) -> None:
    """Bytes of a model's cache, in each format.

    \b
    Examples:
      dsv3-numerics codesign kv deepseek_v3
      dsv3-numerics codesign kv deepseek_v4_pro --tokens 1048576 --cache v4_fp8 --index fp4
      dsv3-numerics codesign kv ./Kimi-K2 --cache fp8 --memory 40000000000
    """
    from ..codesign import kv

    finish(kv(config, integers(tokens, "tokens"), **options), as_json, out)


@click.command("flops")
@CONFIG
@click.option("--context", type=int, default=4096, show_default=True, metavar="T", help="Tokens.")
@click.option("--causal/--full", default=True, help="Attention over half the context, or all of it.")
@click.option("--mode", default="train", show_default=True, metavar="train|prefill|decode")
@MTP
@outputs
def flops_command(config: str, as_json: bool, out: Path | None, **options: Any) -> None:
    """Parameters, and FLOP of a token.

    \b
    Examples:
      dsv3-numerics codesign flops deepseek_v3
      dsv3-numerics codesign flops deepseek_v32 --mode decode --context 131072
    """
    from ..codesign import flops

    finish(flops(config, **options), as_json, out)


@click.command("ep")
@CONFIG
@on_machine
@click.option("--dispatch", metavar="SCHEME", help="[default: e4m3:1x128:f32]")
@click.option("--combine", metavar="SCHEME", help="[default: bf16]")
@click.option("--recipe", metavar="NAME|FILE.json", help="Takes dispatch and combine from a recipe.")
@click.option("--tokens", type=int, default=32, show_default=True, help="Of a device and micro-batch.")
@click.option("--destinations", type=float, help="Copies of a token  [default: chosen + shared]")
@click.option("--remote", type=float, default=1.0, show_default=True, help="Share of copies that are sent.")
@click.option("--alpha", type=float, default=0.0, show_default=True, help="Fixed seconds a transfer.")
@click.option("--latency", is_flag=True, help="The machine's latency for --alpha.")
@click.option("--layers", default="all", show_default=True, metavar="all|moe|N", help="Layers that send.")
@click.option("--micro", type=int, default=2, show_default=True, help="Micro-batches.")
@click.option("--hidden", type=int, help="Width of a row  [default: the model's; the paper takes 7000]")
@click.option("--effective", is_flag=True, help="The network as reached, not as named.")
@click.option("--check", is_flag=True, help="Public measurements beside it.")
@outputs
def ep_command(
    config: str,
    recipe: str | None,
    dispatch: str | None,
    combine: str | None,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Time of dispatch and combine, and the bound on TPOT.

    \b
    Examples:
      dsv3-numerics codesign ep deepseek_v3 --hidden 7000 --dispatch fp8_bare
      dsv3-numerics codesign ep kimi_k2 --hardware h200 --combine logfmt10 --layers moe
    """
    from ..codesign import ep

    formats = recipe_formats(recipe, {"dispatch": dispatch, "combine": combine})
    finish(ep(config, **formats, **options), as_json, out)


@click.command("roofline")
@CONFIG
@on_machine
@click.option("--batch", default="128", show_default=True, metavar="N[,N]|A:B", help="Users a GPU.")
@click.option("--context", type=int, default=4096, show_default=True, help="Tokens of a user.")
@click.option("--ep", type=int, default=1, show_default=True, help="GPUs that share the experts.")
@click.option("--redundant", type=int, default=0, show_default=True, help="Further copies of experts.")
@click.option("--phase", default="decode", show_default=True, metavar="decode|prefill")
@click.option("--recipe", metavar="NAME|FILE.json", help="Takes the formats below from a recipe.")
@click.option("--linears", metavar="fp8|bf16|fp4", help="[default: fp8]")
@click.option("--cache", metavar="FORMAT", help="[default: bf16]")
@click.option("--dispatch", metavar="SCHEME", help="[default: e4m3:1x128:f32]")
@click.option("--combine", metavar="SCHEME", help="[default: bf16]")
@click.option("--keep", type=float, default=10e9, show_default=True, help="Bytes kept free.")
@click.option(
    "--efficiency",
    multiple=True,
    metavar="RESOURCE=SHARE",
    help="As memory=.8; also compute, network.",
)
@outputs
def roofline_command(
    config: str,
    batch: str,
    recipe: str | None,
    linears: str | None,
    cache: str | None,
    dispatch: str | None,
    combine: str | None,
    efficiency: Sequence[str],
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Operations of a layer, each with what bounds it.

    \b
    Examples:
      dsv3-numerics codesign roofline deepseek_v3 --ep 144 --redundant 32 --cache fp8
      dsv3-numerics codesign roofline kimi_k2 --ep 16 --batch 1:256 --out roofline
    """
    from ..codesign import roofline

    given = {"linears": linears, "cache": cache, "dispatch": dispatch, "combine": combine}
    shares = {}
    for part in efficiency:
        key, _, value = part.partition("=")
        shares[key] = numbers(value, f"efficiency {key}")[0]
    answer = roofline(
        config, batch=integers(batch, "batch"), efficiency=shares, **recipe_formats(recipe, given), **options
    )
    finish(answer, as_json, out)


@click.command("mtp")
@click.option("--accept", metavar="P[,P]", help="Acceptance of a draft, of each place or of all.")
@click.option("--from", "run", type=PATH, metavar="RUN.json", help="Counts of a run.")
@click.option("--depth", type=int, help="Drafts a step  [default: as many as --accept has]")
@click.option("--cost", type=float, default=0.0, show_default=True, help="Of a draft, in steps.")
@click.option("--bytes-share", type=float, default=0.5, show_default=True, help="Of a step's time, mixed.")
@outputs
def mtp_command(
    accept: str | None, run: Path | None, depth: int | None, as_json: bool, out: Path | None, **options: Any
) -> None:
    """Gain of drafts of multi-token prediction.

    RUN.json holds the fields of `generate`'s Speculation: drafted, accepted, steps.

    \b
    Examples:
      dsv3-numerics codesign mtp --accept 0.85
      dsv3-numerics codesign mtp --accept 0.9,0.8,0.5 --cost 0.05
    """
    from ..codesign import accepted_share, mtp

    if (accept is None) == (run is None):
        raise click.UsageError("give --accept or --from, and not both")
    places = numbers(accept, "accept") if accept is not None else [accepted_share(run or "")]
    finish(mtp(places, len(places) if depth is None else depth, **options), as_json, out)


@click.command("tradeoff")
@click.argument("config", metavar="[CONFIG]", default="deepseek_v3")
@on_machine
@click.option("--recipe", default="deepseek_v3", show_default=True, metavar="NAME|FILE.json")
@click.option("--vary", metavar="dispatch,combine,cache", help="[default: what the errors cover]")
@files_option(
    "--errors", "FILE", "Results of experiment combine, or of sensitivity (repeatable: one a recipe)."
)
@click.option("--data", default="normal", show_default=True, help="Kind of data, of experiment combine.")
@click.option("--model", type=PATH, metavar="FOLDER", help="Measure on its logits.")
@click.option("--demo", is_flag=True, help="Measure them on the trained model of the package.")
@click.option("--ids", "count", type=int, default=128, show_default=True, help="Tokens that --model runs.")
@click.option("--tokens", type=int, default=32, show_default=True, help="Of a device and micro-batch.")
@click.option("--destinations", type=float, help="Copies of a token  [default: chosen + shared]")
@click.option("--batch", type=int, default=128, show_default=True, help="Users a GPU, whose cache is read.")
@click.option("--context", type=int, default=4096, show_default=True, help="Tokens of a user.")
@click.option("--ep", type=int, help="GPUs that share the experts  [default: two experts each]")
@click.option("--redundant", type=int, default=0, show_default=True, help="Further copies of experts.")
@click.option("--keep", type=float, default=10e9, show_default=True, help="Bytes kept free.")
@click.option("--coding", metavar="LOW:HIGH", help="Cost of coding LogFMT, in transfers: 0.5:1 in the paper.")
@outputs
def tradeoff_command(
    vary: str | None,
    errors: Sequence[Path],
    data: str,
    model: Path | None,
    demo: bool,
    count: int,
    coding: str | None,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Bytes, time and measured error of a recipe's formats.

    \b
    Examples:
      dsv3-numerics codesign tradeoff
      dsv3-numerics codesign tradeoff kimi_k2 --vary dispatch,combine --hardware h200
      dsv3-numerics codesign tradeoff --model ./tiny-v3 --vary combine,cache --out tradeoff
    """
    from ..codesign import tradeoff
    from ..codesign.errors import CHOICES, model_errors, read_errors, stored_errors

    if sum((bool(errors), model is not None, demo)) > 1:
        raise click.UsageError("give one of --errors, --model, --demo")
    names = [word.strip() for word in vary.split(",")] if vary is not None else None
    if model is not None or demo:
        table = model_errors(model, options["recipe"], names or list(CHOICES), tokens=count)
    else:
        table = read_errors(errors, data) if errors else stored_errors(data)
    band = numbers(coding, "coding", ":") if coding is not None else None
    if band is not None and len(band) != 2:
        raise ValueError(f"coding: found {coding!r}, expected LOW:HIGH, as 0.5:1")
    pair = (band[0], band[1]) if band is not None else None
    finish(tradeoff(errors=table, vary=names, coding=pair, **options), as_json, out)
