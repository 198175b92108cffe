"""The verb ``study``: what quantization schemes do to the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import keeping, leave, make_console, progress_bar, results_folder
from .options import PATH, glob_options, json_option, missing_scale_option, threads_option
from .prompt import Words, demo_prompt, parse_ids, prompt_options
from .splitting import part_done, split_of, split_options

_TOKENS = 64
_DEMO = ""  # --activations without a folder

if TYPE_CHECKING:
    from rich.console import Console

    from ..model import Model
    from ..study import Scheme, Study
    from ..study.demo import Demo
    from ..study.split import StudyOfFiles
    from ..tasks.journal import Journal
    from ..tasks.plan import Split


@click.command("study")
@click.argument("inputs", nargs=-1, metavar="INPUT...", type=PATH)
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
@prompt_options("MODEL", "Its tokens")
@click.option(
    "--tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Number of tokens: random ones, or the first N of --ids or --text.",
)
@click.option(
    "--against",
    metavar="ORIGINAL",
    type=PATH,
    help="Compare INPUT, a quantized checkpoint, with the original that it was made from.",
)
@missing_scale_option
@click.option("--scheme", "-s", "schemes", multiple=True, metavar="S", help="A scheme; repeat it for more.")
@glob_options("tensors (operations)")
@click.option("--out", type=PATH, metavar="DIR", help="Output folder  [default: study-NAME]")
@click.option("--resume", is_flag=True, help="Go on with a study that was stopped; a finished one stays.")
@click.option("--overwrite", is_flag=True, help="Replace other results in the output folder.")
@threads_option("all CPUs")
@split_options
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
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Measure what quantization schemes do to the tensors of a file, or to a model's activations.

    INPUT is a .safetensors, .npy or .npz file, or a folder with a checkpoint; weights in low precision are
    studied as the numbers that they mean. With --against, a quantized checkpoint is compared with its
    original instead. Files are read in pieces: memory stays small whatever their size. Written are
    results.csv, results.json, report.md and three plots. Ctrl-C and SIGTERM keep what is done, and --resume
    goes on from there. Several machines that see INPUT and DIR share the work of files by --part, in jobs of
    any kind, or by --dask; the figures are the same.

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
      dsv3-numerics study ./V3-bf16 --out v3 --part 3/8
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
    split = split_of(part, dask, threads=threads)
    if not split.alone and (demo or model_path is not None):
        why = "a forward goes layer by layer" if model_path is not None else "the demo is small"
        raise click.UsageError(
            f"--{'part' if part else 'dask'}: {why}, and is not split; it is for INPUT files"
        )
    if part is not None and overwrite:
        raise click.UsageError("--overwrite: not with --part, whose results stand beside those of others")
    from ..study import DEFAULT_SCHEMES, Scheme

    console = make_console(quiet=as_json)
    try:
        chosen = [Scheme.parse(s) for s in schemes] or DEFAULT_SCHEMES
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("scheme "), param_hint="--scheme") from error
    scale = None if missing_scale is None else float(missing_scale)
    of_files: StudyOfFiles | None = None
    if model_path is not None:
        prompt = ids, text, tokens
        path = Path(model_path) if model_path else None
        study, title, work = _of_activations(path, prompt, chosen, include, exclude, threads)
    elif demo:
        study, title, work = _of_demo(chosen, scale, include, exclude, threads)
    else:
        study, title, work, of_files = _of_files(
            inputs, against, chosen, scale, include, exclude, threads, split, out
        )
    folder, done = _taken_up(study, out or Path(f"study-{title}"), resume, overwrite, split)
    if done:
        console.print(f"All is done: {folder / 'report.md'}", markup=False, highlight=False, soft_wrap=True)
        if as_json:
            click.echo((folder / "results.json").read_text())
        return
    for note in study.remarks():
        console.print(
            note, style="yellow" if note.startswith("SYNTHETIC") else "", markup=False, highlight=False
        )
    _do(study, work, folder, split, of_files)
    if split.part is not None and not study.partial:
        from ..report.text import counted

        part_done(folder, split.part, counted(len(study.names()), "tensor"))
        return
    _finish(study, folder, console)
    if demo and not study.partial:
        _next(folder, console)
    if as_json:
        click.echo((folder / "results.json").read_text())
    if not study.tensors and not study.partial:
        raise click.ClickException(f"nothing was studied; {folder / 'report.md'} says why")
    leave(study)


Work = Callable[["Journal"], None]
"""Fills a study, but for what a journal holds, and notes each task in it."""

_ABOUT = (
    *("inputs", "schemes", "include", "exclude", "tokens", "ids_sha256"),
    *("tensors_selected", "elements_selected", "against", "missing_scale"),
)


def _about(study: Study) -> dict[str, Any]:
    return {name: study.settings[name] for name in _ABOUT if name in study.settings}


def _taken_up(study: Study, folder: Path, resume: bool, overwrite: bool, split: Split) -> tuple[Path, bool]:
    """Return the folder, and whether all is done already."""
    from ..report.files import read_results
    from ..study.state import VERB
    from ..tasks.journal import journals, remove_journals

    results_folder(folder, _about(study), overwrite=overwrite)
    if overwrite:
        remove_journals(folder, VERB)
    resume = resume or split.part is not None
    if journals(folder, VERB):
        if not resume:
            raise click.ClickException(
                f"--out: {folder} holds an unfinished study; --resume goes on with it, "
                "--overwrite begins anew"
            )
        return folder, False
    found = read_results(folder) if resume else None
    return folder, found is not None and found.get("partial") is None


def merge_study(folder: Path, as_json: bool) -> None:
    """End a study in parts."""
    from ..study.split import StudyOfFiles
    from ..study.state import VERB
    from ..tasks.journal import journals, read_head
    from ..tasks.plan import Split

    _, given = read_head(journals(folder, VERB)[0])
    try:
        lists = {name: tuple(given["files"][name]) for name in ("inputs", "schemes", "include", "exclude")}
        of_files = StudyOfFiles(**{**given["files"], **lists})
        named = {name: given["settings"][name] for name in ("inputs", "against") if name in given["settings"]}
        notes = list(given["notes"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: holds a study that is not of files, which is not done in parts"
        ) from error
    study, items = of_files.prepare()
    study.settings |= named
    study.notes = notes
    split = Split(merge=True)

    def work(journal: Journal) -> None:
        of_files.execute(study, items, journal=journal, split=split)

    console = make_console(quiet=as_json)
    _do(study, work, folder, split, of_files)
    _finish(study, folder, console)
    if as_json:
        click.echo((folder / "results.json").read_text())
    leave(study)


def _of_demo(
    schemes: Sequence[Scheme],
    missing_scale: float | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
) -> tuple[Study, str, Work]:
    """Return a study of the demo's tensors, its title, and what fills it."""
    from ..study import demo_inputs, execute, prepare

    found: Demo = demo_inputs()
    study, tensors = prepare(
        found.inputs, schemes, include=include, exclude=exclude, missing_scale=missing_scale
    )
    study.notes += found.notes

    def work(journal: Journal) -> None:
        with progress_bar(rate="M elements") as progress:
            execute(study, tensors, threads=threads, progress=progress, journal=journal)

    return study, found.title, work


def _of_files(
    inputs: tuple[Path, ...],
    against: Path | None,
    schemes: Sequence[Scheme],
    missing_scale: float | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
    split: Split,
    out: Path | None,
) -> tuple[Study, str, Work, StudyOfFiles]:
    """Return a study of files, its title, what fills it, and the arguments that others open it with."""
    from ..study.split import StudyOfFiles

    of_files = StudyOfFiles(
        tuple(str(path.absolute()) for path in inputs),
        () if against else tuple(map(str, schemes)),
        None if against is None else str(against.absolute()),
        include,
        exclude,
        missing_scale,
    )
    study, items = of_files.prepare()
    study.settings["inputs"] = [str(path) for path in inputs]
    title = inputs[0].resolve().stem
    if against is not None:
        study.settings["against"] = str(against)
        title += f"-against-{against.resolve().stem}"
    if not items:
        raise click.ClickException(f"nothing to study: {_left_out(study)}")
    folder = out or Path(f"study-{title}")

    def work(journal: Journal) -> None:
        with progress_bar(rate="M elements") as progress:
            of_files.execute(
                study,
                items,
                threads=threads,
                progress=progress,
                journal=journal,
                split=split.within(of_files, folder),
            )

    return study, title, work, of_files


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

    def work(journal: Journal) -> None:
        with progress_bar() as progress:
            execute_activations(study, model, tokens_in, threads=threads, progress=progress, journal=journal)

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


def _do(study: Study, work: Work, folder: Path, split: Split, of_files: StudyOfFiles | None) -> None:
    """Fill the study; whatever stops it, the study says so, and what is done is kept in the journal."""
    from ..study import CheckpointError
    from ..study.state import SYNC_SECONDS, VERB
    from ..tasks.journal import open_journal

    known = {} if of_files is None else {"files": asdict(of_files)}
    with (
        keeping(study),
        open_journal(
            folder,
            VERB,
            _about(study),
            resume=True,
            part=split.part,
            arguments={**known, "settings": study.settings, "notes": study.notes},
            every=SYNC_SECONDS,
        ) as journal,
    ):
        try:
            work(journal)
        except CheckpointError as error:
            study.partial = str(error)


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


_NEXT = (
    ("study YOUR.safetensors -s nvfp4", "your own tensors"),
    ("study --activations --demo", "what goes through a network"),
    ("sensitivity --demo", "what such errors do to its output"),
)


def _next(folder: Path, console: Console) -> None:
    """Say what to try behind the demo."""
    width = max(len(line) for line, _ in _NEXT)
    lines = [f"Next:  open {folder}/report.html, the same with pictures"]
    lines += [f"       dsv3-numerics {line:<{width}}  {why}" for line, why in _NEXT]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _finish(study: Study, folder: Path, console: Console) -> None:
    from ..study.state import VERB
    from ..study.tables import kinds_table, worst_table
    from ..tasks.journal import remove_journals

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
    else:
        remove_journals(folder, VERB)
    console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
