"""The verb ``run``: a forward or a generation from the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import make_console, print_json, progress_bar, writable_file
from .options import PATH, json_option
from .prompt import Words, parse_ids, prompt_options
from .run_output import Wanted, keeping, matching, metadata, renamed, write

if TYPE_CHECKING:
    from ..model import Generation, Model, Recipe

_SUFFIXES = (".npz", ".safetensors")
_LIKELIEST = 5
_DEMO_TOKENS = 300
_DEMO_TEMPERATURE = 0.7


@click.command("run")
@click.argument("path", metavar="PATH", required=False, type=PATH)
@click.option("--demo", is_flag=True, help="Run tiny-austen, the trained model that comes with the package.")
@prompt_options("PATH")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(0),
    metavar="N",
    help=f"Tokens to generate  [default: 0; --demo: {_DEMO_TOKENS}]",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--recipe", "spelled", metavar="NAME|FILE.json", help="What runs in which format, not --dtype.")
@click.option(
    "--weights-as-bf16", is_flag=True, help="Take FP8 weights as a BF16 conversion would hold them."
)
@click.option(
    "--absorbed/--naive", default=None, help="How attention is computed  [default: what is cheaper]"
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    metavar="T",
    help=f"0 is greedy  [default: 0; --demo: {_DEMO_TEMPERATURE}, but for --speculative]",
)
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Sample among the K likeliest.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P", help="Sample in this nucleus."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the samples.")
@click.option("--eos", type=int, metavar="ID", help="Token that ends  [default: the config's; -1: none]")
@click.option("--speculative", is_flag=True, help="Let the MTP layer draft: greedy, same tokens.")
@click.option("--trace", "traces", multiple=True, metavar="NAME", help="An intermediate to keep, or a GLOB.")
@click.option("--inputs", is_flag=True, help="Of operations in --trace: keep what went in too.")
@click.option(
    "--names",
    type=click.Choice(["ours", "hf"]),
    default="ours",
    show_default=True,
    help="hf: names and axes of transformers' modules, where there is one.",
)
@click.option("--out", type=PATH, metavar="F", help="Write logits and traces to F.")
@click.option("--overwrite", is_flag=True, help="Replace F if it is there.")
@json_option
def run_command(
    path: Path | None,
    demo: bool,
    ids: str | None,
    text: str | None,
    max_new_tokens: int | None,
    dtype: str,
    spelled: str | None,
    weights_as_bf16: bool,
    absorbed: bool | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    eos: int | None,
    speculative: bool,
    traces: tuple[str, ...],
    inputs: bool,
    names: str,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run a DeepSeek-V3 checkpoint: one forward, or a continuation.

    PATH is a checkpoint folder with config.json: FP8, BF16 or float32, and any size that fits on the disk, as
    weights stay in their files. Without --max-new-tokens the likeliest next tokens are printed. --demo takes
    a small trained model instead, whose tokens are bytes, and writes on.

    \b
    --trace keeps intermediates of the prompt's forward, for --out or as a summary:
      layer3.attn_out  layer3.c_kv  layer3.topk_idx  'layer*.router_logits'  final_norm
      --trace list prints all names; single operations go by those of the checkpoint's tensors:
      layer3.q_a_proj  'layer3.experts.*.down_proj'  layer3.attend  (--trace operations prints all)

    --recipe runs operations in low precision: bf16, deepseek_v3, deepseek_v31, deepseek_v32, blackwell, or
    a JSON file of fields, as {"preset": "deepseek_v3", "cache": "fp8"}.

    --out takes .npz or .safetensors; it holds the prompt's logits, the traces, and the generated tokens, and
    says in its metadata (of npz: the archive's comment) which model, recipe, dtype, form of attention and
    versions they are of. --names hf names them as transformers' modules: model.layers.3.self_attn.q_a_proj.

    \b
    Examples:
      dsv3-numerics run --demo --text "It is a truth"
      dsv3-numerics run ./tiny-v3 --ids 3,1,4,1,5
      dsv3-numerics run ./tiny-v3 --ids 3,1,4 --max-new-tokens 32 --speculative
      dsv3-numerics run ./V3-fp8 --ids 3,1,4 --recipe deepseek_v3 --absorbed
      dsv3-numerics run ./V3-fp8 --text "The capital of France is" --max-new-tokens 8
      dsv3-numerics run ./tiny-v3 --ids @prompt.txt --trace 'layer0.*' --out layer0.npz
      dsv3-numerics run ./tiny-v3 --ids 3,1,4 --trace 'layer*_proj' --names hf --out ours.safetensors
    """
    import numpy as np

    from ..model import Model, demo_checkpoint
    from ..model.operation_names import operation_names

    if demo == (path is not None):
        raise click.UsageError("give PATH or --demo, not both" if demo else "give a PATH, or --demo")
    path = path or demo_checkpoint()
    if max_new_tokens is None:
        max_new_tokens = _DEMO_TOKENS if demo else 0
    if temperature is None:
        temperature = _DEMO_TEMPERATURE if demo and not speculative else 0.0
    if out is not None and out.suffix not in _SUFFIXES:
        raise click.BadParameter(f"found {out.name!r}, expected {' or '.join(_SUFFIXES)}", param_hint="--out")
    if out is not None:
        writable_file(out, overwrite=overwrite)
    recipe = None if spelled is None else _recipe(spelled)
    model = Model.from_checkpoint(path, dtype=dtype, weights_as_bf16=weights_as_bf16)
    if traces in (("list",), ("operations",)):
        listed = model.trace_names() if traces == ("list",) else operation_names(model.config)
        if as_json:
            print_json(listed)
        for name in () if as_json else listed:
            click.echo(name)
        return
    if (ids is None) == (text is None):
        raise click.UsageError("give --ids or --text, and not both")
    words = Words(path) if text is not None or (path / "tokenizer.json").is_file() else None
    if words is not None and words.problem and ids is not None:
        click.echo(f"note: {words.problem}; tokens are shown as ids", err=True)
    prompt = np.array(parse_ids(ids) if ids is not None else words.encode(text or ""), np.int64)  # type: ignore[union-attr]
    wanted = matching(traces, model)
    if inputs and not wanted.operations:
        raise click.UsageError("--inputs: found no operation in --trace, expected one, as layer1.q_a_proj")
    found: dict[str, Any] = {}
    likeliest: list[dict[str, Any]] = []
    done: Generation | None = None
    how: dict[str, Any] = {"absorbed": absorbed, "recipe": recipe}
    if out is not None or any(wanted) or not max_new_tokens:
        last = _forward(model, prompt, wanted, {**how, "inputs": inputs}, found)
        likeliest = _likeliest(last, words)
        if not as_json:
            _print_likeliest(likeliest)
    if max_new_tokens:
        done = _generate(
            model,
            prompt,
            words,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            eos=eos,
            speculative=speculative,
            quiet=as_json,
            **how,
        )
        found["tokens"] = done.tokens
    absent = [name for name in wanted.operations if name not in found]
    if absent and not as_json:
        click.echo(f"note: {len(absent)} operations did not run, such as {absent[0]}", err=True)
    about = metadata(
        path,
        model,
        recipe,
        tokens=len(prompt),
        absorbed=absorbed,
        traced=any(wanted),
        names=names,
        weights_as_bf16=weights_as_bf16,
    )
    kept = {name: x for name, x in found.items() if name not in ("ids", "logits", "tokens") or name in traces}
    if names == "hf":
        found, kept = (renamed(held, len(prompt)) for held in (found, kept))
    if out is not None:
        write(out, found, about)
    if as_json:
        told = _told(prompt, likeliest, done, kept, out)
        print_json({**told, "absent": absent, "about": about} if out is not None or kept else told)
    elif out is not None:
        click.echo(f"{out}: {', '.join(found)}")
    elif kept:
        _print_traces(kept)


def _told(
    prompt: Any,
    likeliest: list[dict[str, Any]],
    done: Generation | None,
    traces: dict[str, Any],
    out: Path | None,
) -> dict[str, Any]:
    """Collect what JSON says of a run."""
    told: dict[str, Any] = {"ids": prompt.tolist()}
    if likeliest:
        told["next"] = likeliest
    if done is not None:
        told["tokens"] = done.tokens.tolist()
        told["seconds"] = {"prompt": done.prompt_seconds, "tokens": done.seconds}
        if done.speculation is not None:
            told["mtp"] = {"drafted": done.speculation.drafted, "accepted": done.speculation.accepted}
    if traces:
        told["traces"] = {
            name: {"dtype": str(x.dtype), "shape": list(x.shape), **_figures(x)} for name, x in traces.items()
        }
    return told | ({} if out is None else {"out": str(out)})


def _figures(x: Any) -> dict[str, float]:
    """Mean, root mean square and largest magnitude."""
    return {
        "mean": float(x.mean()),
        "rms": float((x * 1.0 * x).mean()) ** 0.5,
        "largest": float(abs(x).max()),
    }


def _recipe(spelled: str) -> Recipe:
    from ..model import Recipe

    try:
        return Recipe.read(spelled)
    except (OSError, TypeError, ValueError) as error:
        raise click.BadParameter(str(error).removeprefix("recipe: "), param_hint="--recipe") from error


def _forward(model: Model, prompt: Any, wanted: Wanted, how: Mapping[str, Any], found: dict[str, Any]) -> Any:
    """Fill `found` with logits, traces and operations; the logits after the last token."""
    inputs = how["inputs"]
    settings = {name: value for name, value in how.items() if name != "inputs"}
    operations: dict[str, Any] = {}
    if wanted.operations:
        settings["hook"] = keeping(wanted.operations, operations, inputs=inputs)
    with progress_bar() as progress:
        if any(wanted):  # with MTP where operations of it are named
            more = ["mtp.logits"] if any(name.startswith("mtp.") for name in wanted.operations) else []
            traced = model.trace(prompt, [*wanted.traces, "logits", *more], progress=progress, **settings)
            found |= {name: x for name, x in traced.items() if name in wanted.traces or name == "logits"}
            found["logits"] = found["logits"][0]
        else:
            found["logits"] = model.forward(prompt, progress=progress, **settings)
    found |= operations
    found["ids"] = prompt
    return found["logits"][-1]


def _generate(model: Model, prompt: Any, words: Words | None, *, quiet: bool, **settings: Any) -> Generation:
    """Print tokens as they come; what they took, at the end."""
    if quiet:
        return model.generate(prompt, **settings)
    so_far: list[int] = []
    shown = ""

    def on_token(token: Any) -> None:
        nonlocal shown
        so_far.append(int(token[0]))
        text = words.decode(so_far) if words is not None else None
        if text is None:
            click.echo(f"{so_far[-1]} ", nl=False)
        elif not text.endswith("�"):  # the rest of a character is still to come
            click.echo(text[len(shown) :], nl=False)
            shown = text
        sys.stdout.flush()

    from ..report.text import counted

    done = model.generate(prompt, on_token=on_token, **settings)
    click.echo()
    rate = f" at {done.tokens_per_second:.2f} a second" if len(done.tokens) > 1 else ""
    read = f"{counted(done.prompt_tokens, 'token')} read in {done.prompt_seconds:.2f} s"
    click.echo(f"{read}, {len(done.tokens)} written{rate}", err=True)
    log = done.speculation
    if log is not None:
        click.echo(
            f"MTP: {log.accepted} of {log.drafted} drafts accepted ({log.acceptance:.0%}), "
            f"each at {log.cost:.2f} of a forward: (1 + p) / (1 + c) = {log.expected_speedup:.2f}",
            err=True,
        )
    return done


def _likeliest(logits: Any, words: Words | None) -> list[dict[str, Any]]:
    """Return the likeliest next tokens: id, logit, probability, and text where there is a tokenizer."""
    import numpy as np

    p = np.exp(logits - logits.max(), dtype=np.float64)
    p /= p.sum()
    return [
        {
            "id": int(i),
            "logit": float(logits[i]),
            "probability": float(p[i]),
            "text": words.decode([int(i)]) if words is not None else None,
        }
        for i in np.argsort(-logits, kind="stable")[:_LIKELIEST]
    ]


def _print_likeliest(tokens: list[dict[str, Any]]) -> None:
    from ..report.terminal import Column, rich_table

    right = {"justify": "right"}
    rows = []
    for t in tokens:
        text = "" if t["text"] is None else repr(t["text"])
        rows.append((str(t["id"]), f"{t['logit']:.6g}", f"{t['probability']:.4f}", text))
    columns: list[Column] = [("id", right), ("logit", right), ("probability", right), "text"]
    make_console().print(rich_table(columns, rows, title="Next token"))


def _print_traces(found: Mapping[str, Any]) -> None:
    from ..report.terminal import Column, rich_table

    right = {"justify": "right", "no_wrap": True}
    titles = ("dtype", "shape", "mean", "rms", "largest")
    columns: list[Column] = [("name", {"no_wrap": True}), *((title, right) for title in titles)]
    rows = (
        (name, str(x.dtype), "x".join(map(str, x.shape)), *(f"{v:.4g}" for v in _figures(x).values()))
        for name, x in found.items()
    )
    make_console().print(rich_table(columns, rows, title="Traces (--out keeps them)"))
