"""The verb ``study``: what quantization schemes do to the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import json_option, keeping, leave, make_console, progress_bar, results_folder
from .prompt import Words, demo_prompt, parse_ids

_TOKENS = 64
_DEMO = ""  # --activations without a folder

if TYPE_CHECKING:
    from rich.console import Console

    from ..model import Model
    from ..study import Scheme, Study
    from ..study.demo import Demo
    from ..study.state import Unfinished


@click.command("study")
@click.argument("inputs", nargs=-1, metavar="INPUT...", type=click.Path(path_type=Path))
@click.option(
    "--demo", is_flag=True, help="Study all-MiniLM-L6-v2 (or a synthetic set, if it is not installed)."
)
@click.option(
    "--activations",
    "model_path",
    metavar="MODEL",
    is_flag=False,
    flag_value=_DEMO,
    help="Study what goes through a DeepSeek-V3 checkpoint instead (with --demo: tiny-austen, which comes "
    "along): the inputs of its linear layers.",
)
@click.option(
    "--ids", metavar="IDS", help="Its tokens, as 3,1,4, or @FILE with ids between spaces or commas."
)
@click.option(
    "--text", help="Text instead, where MODEL has a tokenizer.json (byte tokens, or needs tokenizers)."
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Number of tokens: random ones, or the first N of --ids or --text.",
)
@click.option(
    "--against",
    metavar="ORIGINAL",
    type=click.Path(path_type=Path),
    help="Compare INPUT, a quantized checkpoint, with the original that it was made from.",
)
@click.option(
    "--missing-scale",
    type=click.Choice(["1"]),
    help="1: FP8 codes without any scale are the numbers themselves.",
)
@click.option("--scheme", "-s", "schemes", multiple=True, metavar="S", help="A scheme; repeat it for more.")
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="Only tensors (operations) whose name matches; may be repeated.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="No tensors (operations) whose name matches; may be repeated.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Output folder  [default: study-NAME]"
)
@click.option("--resume", is_flag=True, help="Go on with a study that was stopped; a finished one stays.")
@click.option("--overwrite", is_flag=True, help="Replace other results in the output folder.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads  [default: all CPUs]")
@json_option
def study_command(
    inputs: tuple[Path, ...],
    demo: bool,
    model_path: str | None,
    ids: str | None,
    text: str | None,
    tokens: int | None,
    against: Path | None,
    missing_scale: str | None,
    schemes: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    out: Path | None,
    resume: bool,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure what quantization schemes do to the tensors of a file, or to a model's activations.

    INPUT is a .safetensors, .npy or .npz file, or a folder with a checkpoint; weights in low precision are
    studied as the numbers that they mean. With --against, a quantized checkpoint is compared with its
    original instead. Files are read in pieces: memory stays small whatever their size. Written are
    results.csv, results.json, report.md and three plots. Ctrl-C and SIGTERM keep what is done, and --resume
    goes on from there.

    \b
    A scheme says how a tensor is quantized, format:group:scale[:rule]:
      e4m3:1x128:f32       FP8, one float32 scale for 128 elements of a row
      e4m3:128x128:ue8m0   FP8, one power-of-two scale for a square block
      e5m2:tensor:f32      one scale for the tensor; also row and col
      mxfp8 mxfp6 mxfp4    OCP microscaling, 32 elements;  nvfp4: 16 elements
      int8:1x128           symmetric integers
      logfmt8:1x128        logarithmic codes, 3 to 16 bits;  logfmt10:deepep: as DeepEP sends them
      bf16 f16 e4m3        a plain cast, no scale
      e4m3:1x128:f32:deepgemm  by another project's rule (default: deepseek_v3)

    With --activations, a forward runs once and each linear layer's input is studied as it comes. Give ids or
    a text that the model was made for: by default the ids are random.

    \b
    Examples:
      dsv3-numerics study --demo
      dsv3-numerics study model.safetensors -s mxfp4 -s nvfp4 --out fp4
      dsv3-numerics study ./DeepSeek-V3-bf16 --include '*mlp.experts*' --threads 8
      dsv3-numerics study ./V3-fp8 --against ./V3-bf16
      dsv3-numerics study --activations --demo
      dsv3-numerics study --activations ./V3-fp8 --text "The capital of France is"
      dsv3-numerics study --activations ./tiny-v3 --tokens 256 --include '*.o_proj'
    """
    if model_path == _DEMO and not demo:
        raise click.UsageError("--activations: give a MODEL, or --demo")
    given = (demo and model_path != _DEMO) + bool(inputs) + (model_path is not None)
    if given != 1:
        ways = "INPUT files or folders, --demo, or --activations"
        raise click.UsageError(
            f"give one of {ways}, not both" if given else "give an INPUT, or --demo, or --activations"
        )
    if model_path is None and (ids, text, tokens) != (None, None, None):
        raise click.UsageError("--ids, --text and --tokens are for --activations")
    if ids is not None and text is not None:
        raise click.UsageError("give --ids or --text, not both")
    if against is not None and (len(inputs) != 1 or schemes):
        raise click.UsageError("--against: give one INPUT, and no --scheme: it is what the checkpoint holds")
    from ..study import DEFAULT_SCHEMES, Scheme

    console = make_console(quiet=as_json)
    try:
        chosen = [Scheme.parse(s) for s in schemes] or DEFAULT_SCHEMES
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("scheme "), param_hint="--scheme") from error
    scale = None if missing_scale is None else float(missing_scale)
    if against is not None:
        study, title, work = _against(inputs[0], against, scale, include, exclude, threads)
    elif model_path is None:
        study, title, work = _of_tensors(inputs, demo, chosen, scale, include, exclude, threads)
    else:
        prompt = ids, text, tokens
        path = Path(model_path) if model_path else None
        study, title, work = _of_activations(path, prompt, chosen, include, exclude, threads)
    folder, state, done = _taken_up(study, out or Path(f"study-{title}"), resume, overwrite)
    if done:
        console.print(f"All is done: {folder / 'report.md'}", markup=False, highlight=False, soft_wrap=True)
        if as_json:
            click.echo((folder / "results.json").read_text())
        return
    for note in study.notes:
        console.print(
            note, style="yellow" if note.startswith("SYNTHETIC") else "", markup=False, highlight=False
        )
    _do(study, work, state)
    _finish(study, folder, console)
    if as_json:
        click.echo((folder / "results.json").read_text())
    if not study.tensors and not study.partial:
        raise click.ClickException(f"nothing was studied; {folder / 'report.md'} says why")
    leave(study)


Work = Callable[["Callable[[Study], None]"], None]
"""Fills a study, and calls its argument after each tensor."""

_ABOUT = (
    *("inputs", "schemes", "include", "exclude", "tokens", "ids_sha256"),
    *("tensors_selected", "elements_selected", "against", "missing_scale"),
)


def _taken_up(study: Study, folder: Path, resume: bool, overwrite: bool) -> tuple[Path, Unfinished, bool]:
    """Return the folder, the state of a stopped run (taken up, if so asked), and whether all is done."""
    from ..report.files import read_results
    from ..study.state import Unfinished

    about = {name: study.settings[name] for name in _ABOUT if name in study.settings}
    results_folder(folder, about, overwrite=overwrite)
    state = Unfinished(folder, about)
    if overwrite:
        state.remove()
    if state.exists() and not resume:
        raise click.ClickException(
            f"--out: {folder} holds an unfinished study; --resume goes on with it, --overwrite begins anew"
        )
    if state.exists():
        state.load(study)
    elif resume:
        found = read_results(folder)
        return folder, state, found is not None and found.get("partial") is None
    return folder, state, False


def _of_tensors(
    inputs: tuple[Path, ...],
    demo: bool,
    schemes: Sequence[Scheme],
    missing_scale: float | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
) -> tuple[Study, str, Work]:
    """Return a study of files, its title, and what fills it."""
    from ..study import demo_inputs, execute, prepare

    found: Demo | None = demo_inputs() if demo else None
    study, tensors = prepare(
        found.inputs if found else inputs,
        schemes,
        include=include,
        exclude=exclude,
        missing_scale=missing_scale,
    )
    study.notes += found.notes if found else []

    if not tensors:
        raise click.ClickException(f"nothing to study: {_left_out(study)}")

    def work(after: Callable[[Study], None]) -> None:
        with progress_bar(rate="M elements") as progress:
            execute(study, tensors, threads=threads, progress=progress, after=after)

    return study, found.title if found else inputs[0].resolve().stem, work


def _against(
    path: Path,
    original: Path,
    missing_scale: float | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
) -> tuple[Study, str, Work]:
    """Return a study of a quantized checkpoint beside its original, its title, and what fills it."""
    from ..study.against import execute_against, prepare_against

    study, pairs = prepare_against(
        path, original, include=include, exclude=exclude, missing_scale=missing_scale
    )

    def work(after: Callable[[Study], None]) -> None:
        with progress_bar(rate="M elements") as progress:
            execute_against(study, pairs, threads=threads, progress=progress, after=after)

    return study, f"{path.resolve().stem}-against-{original.resolve().stem}", work


def _of_activations(
    path: Path | None,
    prompt: tuple[str | None, str | None, int | None],
    schemes: Sequence[Scheme],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
) -> tuple[Study, str, Work]:
    """Return a study of a model's activations, its title, and what fills it."""
    from ..model import Model, demo_checkpoint
    from ..study import execute_activations, prepare_activations

    if path is None:
        path = demo_checkpoint()
        ids, text, tokens = prompt
        if ids is None and text is None:
            prompt = None, demo_prompt(), tokens or _TOKENS
    model = Model.from_checkpoint(path)
    tokens_in, notes = _prompt(model, path, *prompt)
    study = prepare_activations(model, tokens_in, schemes, include=include, exclude=exclude)
    study.settings["inputs"] = [f"activations of {path}"]
    study.notes += notes

    def work(after: Callable[[Study], None]) -> None:
        with progress_bar() as progress:
            execute_activations(study, model, tokens_in, threads=threads, progress=progress, after=after)

    return study, f"{path.resolve().name}-activations", work


def _prompt(
    model: Model, path: Path, ids: str | None, text: str | None, tokens: int | None
) -> tuple[list[int], list[str]]:
    """Return the tokens, and what a reader has to know of them."""
    if ids is None and text is None:
        import numpy as np

        drawn = np.random.default_rng(0).integers(model.config.vocab_size, size=tokens or _TOKENS).tolist()
        note = (
            f"SYNTHETIC TOKENS: {len(drawn)} ids drawn at random, not a text. What a text makes of a trained "
            "model's activations may be distributed otherwise (to study that: --text or --ids)."
        )
        return drawn, [note]
    found = parse_ids(ids) if ids is not None else Words(path).encode(text or "")
    return found[:tokens], []


def _do(study: Study, work: Work, state: Unfinished) -> None:
    """Fill the study; whatever stops it, the study says so, and what is done is kept."""
    from ..study import CheckpointError

    with keeping(study):
        try:
            work(state.save_if_due)
        except CheckpointError as error:
            study.partial = str(error)
    if study.partial:
        state.save(study)
    else:
        state.remove()


def _left_out(study: Study) -> str:
    """Say what is left out, by reason, in one line."""
    from ..report.text import plain, share

    groups = study.left_out()
    told = [
        f"{plain(g.example)} ({plain(g.reason)})"
        if g.tensors == 1
        else f"{g.tensors} tensors ({plain(g.reason)}), {g.elements:,} elements, {share(g.share)}"
        for g in groups
    ]
    if any("scale missing" in g.reason for g in groups):
        told.append("--missing-scale 1 takes codes without a scale for the numbers themselves")
    return "; ".join(told)


def _finish(study: Study, folder: Path, console: Console) -> None:
    from ..study.tables import kinds_table, worst_table

    report = study.save(folder)
    if study.skipped:
        console.print(f"Left out: {_left_out(study)}", markup=False, highlight=False)
    if study.tensors:
        console.print(study.table())
        if study.kinds:
            console.print(kinds_table(study))
        hardest = worst_table(study)
        if hardest.row_count:
            console.print(hardest)
    if study.partial:
        console.print(f"Partial: {study.partial}", style="bold red", markup=False, highlight=False)
        console.print("The same command with --resume goes on from here.", markup=False, highlight=False)
    console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
