"""The verb ``sensitivity``: which low-precision choice of a recipe costs how much, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import ensure_place, keeping, leave, make_console, print_json, progress_bar
from .options import PATH, json_option, threads_option
from .prompt import Words, demo_prompt, parse_ids, prompt_options
from .splitting import part_done, split_of, split_options

if TYPE_CHECKING:
    from rich.console import Console

    from ..model import Model, Recipe
    from ..sensitivity import Sensitivity
    from ..sensitivity.running import Prepared, SensitivityOf
    from ..tasks.plan import Split

VERB = "sensitivity"


@click.command("sensitivity")
@click.argument("path", metavar="MODEL", required=False, type=PATH)
@click.option(
    "--demo", is_flag=True, help="The trained model that comes along; nothing is written without --out."
)
@click.option("--recipe", "spelled", default="deepseek_v3", show_default=True, metavar="NAME|FILE.json")
@click.option("--only", multiple=True, metavar="CHOICE", help="A choice to look at; may be repeated.")
@prompt_options("MODEL")
@click.option(
    "--tokens", type=click.IntRange(1), metavar="N", help="Number of tokens: random, or the first N."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="N", help="Seed of random ids  [default: 0]"
)
@click.option("--absorbed/--naive", default=False, help="The form of attention  [default: naive]")
@click.option(
    "--perturbations",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    metavar="N",
    help="Perturbed runs used to estimate the noise floor.",
)
@click.option("--out", type=PATH, metavar="DIR", help="Output folder  [default: sensitivity-NAME]")
@click.option("--restart", is_flag=True, help="Begin anew: remove the parts that the folder holds.")
@threads_option("all CPUs")
@split_options
@json_option
def sensitivity_command(
    path: Path | None,
    demo: bool,
    spelled: str,
    only: tuple[str, ...],
    ids: str | None,
    text: str | None,
    tokens: int | None,
    seed: int,
    absorbed: bool,
    perturbations: int,
    out: Path | None,
    restart: bool,
    threads: int | None,
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Find out which choice of a low-precision recipe costs how much, and where.

    MODEL is a checkpoint folder. Each choice of the recipe is turned on alone, off alone, and all together;
    every variant is compared with float64: operation by operation on the same inputs, layer by layer on the
    same inputs, and on the logits. Written are results.csv, results.json, report.md and plots. What is done
    is kept in parts/ below the folder: after Ctrl-C the same command goes on.

    Several machines that see MODEL and DIR share the work by --part, in jobs of any kind, or by --dask.

    Give a text or ids that the model was made for: by default the ids are random. --demo takes tiny-austen on
    a novel that it was not trained on.

    \b
    Examples:
      dsv3-numerics sensitivity --demo
      dsv3-numerics sensitivity ./V3-fp8 --text "The capital of France is" --out paris
      dsv3-numerics sensitivity ./tiny-v3 --recipe bf16 --tokens 256
      dsv3-numerics sensitivity ./tiny-v3 --recipe mine.json --only combine --only cache
      dsv3-numerics sensitivity ./V3-fp8 --ids @ids.txt --out v3 --part 3/8
    """
    if demo == (path is not None):
        raise click.UsageError("give MODEL or --demo, not both" if demo else "give a MODEL, or --demo")
    if ids is not None and text is not None:
        raise click.UsageError("give --ids or --text, not both")
    split = split_of(part, dask, threads=threads)
    if not split.alone and path is None:
        raise click.UsageError(f"--{'part' if part else 'dask'}: not with --demo, which is small; give MODEL")
    if part is not None and restart:
        raise click.UsageError("--restart: not with --part, whose results stand beside those of others")
    from ..sensitivity import prepare

    console = make_console(quiet=as_json)
    recipe = _recipe(spelled)
    model, source = _model(path)
    chosen, notes = _ids(model, path, ids, text, tokens, seed)
    choices: dict[str, Any] = {"only": only, "absorbed": absorbed, "perturbations": perturbations}
    folder = None if demo and out is None else out or Path(f"sensitivity-{source}")
    if folder is not None and not restart:
        _refuse_others(folder)
    if folder is not None:
        ensure_place(folder)
    try:
        prepared = prepare(model, chosen, recipe, **choices, folder=folder, restart=restart)
    except OSError as error:
        raise click.ClickException(f"--out: cannot write into {folder}: {error.strerror or error}") from error
    result = prepared.result
    result.notes += notes
    result.settings["source"] = source
    for note in result.notes:
        console.print(note, style="yellow", markup=False, highlight=False)
    if folder is not None and result.parts:
        told = f"{len(result.parts)} parts are done already, {len(prepared.jobs)} to do"
        console.print(told, markup=False, highlight=False)
    opener = None if path is None else _opener(path, chosen, recipe, **choices)
    _measure(prepared, threads, split.within(opener, folder))
    if split.part is not None and folder is not None and not result.partial:
        part_done(folder, split.part, "its parts are kept")
        return
    _finish(result, folder, console)
    if as_json:
        from ..sensitivity.files import content

        print_json(content(result))
    leave(result)


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with results of another kind of run; `prepare` compares those of an analysis."""
    from ..report.files import RESULT_FILES
    from ..sensitivity.parts import ABOUT, FOLDER

    if any((folder / name).exists() for name in RESULT_FILES) and not (folder / FOLDER / ABOUT).exists():
        raise click.ClickException(
            f"--out: {folder} holds results of another kind of run; give another folder, or --restart"
        )


def _recipe(spelled: str) -> Recipe:
    from ..model import Recipe

    try:
        return Recipe.read(spelled)
    except (ValueError, TypeError) as error:
        raise click.BadParameter(str(error).removeprefix("recipe: "), param_hint="--recipe") from error


def _model(path: Path | None) -> tuple[Model, str]:
    from ..model import Model, demo_checkpoint

    if path is None:
        return Model.from_checkpoint(demo_checkpoint()), "tiny-austen"
    return Model.from_checkpoint(path), path.resolve().name


def _ids(
    model: Model, path: Path | None, ids: str | None, text: str | None, tokens: int | None, seed: int
) -> tuple[Any, list[str]]:
    """Return the ids, and what a reader must know of them."""
    import numpy as np

    from ..model import demo_checkpoint
    from ..sensitivity import RANDOM, TOKENS, random_ids

    if path is None and ids is None and text is None:
        text, tokens = demo_prompt(), tokens or TOKENS
    if ids is None and text is None:
        return random_ids(model, tokens or TOKENS, seed), [RANDOM]
    found = parse_ids(ids) if ids is not None else Words(path or demo_checkpoint()).encode(text or "")
    return np.array(found[:tokens], np.int64), []


def _opener(
    path: Path, ids: Any, recipe: Recipe, only: tuple[str, ...], absorbed: bool, perturbations: int
) -> SensitivityOf:
    """Return the arguments from which others open the same analysis."""
    import numpy as np

    from ..sensitivity.running import SensitivityOf

    rows = tuple(tuple(row) for row in np.atleast_2d(ids).tolist())
    return SensitivityOf(str(path.absolute()), rows, recipe.to_json(), only, absorbed, perturbations)


def _measure(prepared: Prepared, threads: int | None, split: Split) -> None:
    """Do what is left with a progress bar; interrupted, the result says so and keeps what is done."""
    from ..sensitivity import execute

    result = prepared.result
    with progress_bar() as progress, keeping(result), _journal(prepared, split):
        execute(prepared, threads=threads, progress=progress, split=split)


@contextmanager
def _journal(prepared: Prepared, split: Split) -> Iterator[None]:
    """Hold the journal of a part, which says to `merge` what it is a part of; results are in ``parts``."""
    from ..sensitivity.running import SensitivityOf
    from ..tasks.journal import open_journal

    opener, folder = split.opener, split.folder
    if split.part is None or folder is None or not isinstance(opener, SensitivityOf):
        yield
        return
    result = prepared.result
    arguments = {"opener": asdict(opener), "source": result.settings["source"], "notes": result.notes}
    head = {**asdict(opener), "version": result.settings["version"]}
    with open_journal(folder, VERB, head, resume=True, part=split.part, arguments=arguments):
        yield


def merge_sensitivity(folder: Path, as_json: bool) -> None:
    """End an analysis in parts."""
    from ..sensitivity import execute
    from ..sensitivity.files import content
    from ..sensitivity.running import SensitivityOf
    from ..tasks.journal import journals, open_journal, read_head, remove_journals
    from ..tasks.plan import Split

    head, given = read_head(journals(folder, VERB)[0])
    ids = tuple(tuple(row) for row in given["opener"]["ids"])
    opener = SensitivityOf(**{**given["opener"], "ids": ids, "only": tuple(given["opener"]["only"])})
    with open_journal(folder, VERB, head, resume=True, arguments=given):
        prepared = opener.prepare(folder)
        prepared.result.notes += given["notes"]
        prepared.result.settings["source"] = given["source"]
        execute(prepared, split=Split(merge=True))
        console = make_console(quiet=as_json)
        _finish(prepared.result, folder, console)
        remove_journals(folder, VERB)
    if as_json:
        print_json(content(prepared.result))


def _finish(result: Sensitivity, folder: Path | None, console: Console) -> None:
    from ..sensitivity.findings import findings

    table = result.table()
    if table.row_count:
        console.print(table)
    for finding in findings(result):
        console.print(f"• {finding}", markup=False, highlight=False)
    if result.partial:
        console.print(f"Partial: {result.partial}", style="bold red", markup=False, highlight=False)
    if folder is not None:
        report = result.save(folder)
        console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
        if result.partial:
            console.print("The same command goes on from here.", markup=False, highlight=False)
