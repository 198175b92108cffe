"""The verb ``study``: what quantization schemes do to the tensors of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import BY_USER, INTERRUPTED, make_console, progress_bar, writable

if TYPE_CHECKING:
    from rich.console import Console

    from ..study import Study
    from ..study.demo import Demo


@click.command("study")
@click.argument("inputs", nargs=-1, metavar="INPUT...", type=click.Path(path_type=Path))
@click.option(
    "--demo", is_flag=True, help="Study all-MiniLM-L6-v2 (or a synthetic set, if it is not installed)."
)
@click.option("--scheme", "-s", "schemes", multiple=True, metavar="S", help="A scheme; repeat it for more.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only tensors whose name matches; may be repeated."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="No tensors whose name matches; may be repeated."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Output folder  [default: study-NAME]"
)
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads  [default: all CPUs]")
def study_command(
    inputs: tuple[Path, ...],
    demo: bool,
    schemes: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    out: Path | None,
    threads: int | None,
) -> None:
    """Measure what quantization schemes do to the tensors of a file.

    INPUT is a .safetensors, .npy or .npz file, or a folder with a checkpoint. It is read in pieces: memory
    stays small whatever its size. Written are results.csv, results.json, report.md and three plots. Ctrl-C
    keeps what is done.

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

    \b
    Examples:
      dsv3-numerics study --demo
      dsv3-numerics study model.safetensors -s mxfp4 -s nvfp4 --out fp4
      dsv3-numerics study ./DeepSeek-V3-bf16 --include '*mlp.experts*' --threads 8
    """
    if demo == bool(inputs):
        raise click.UsageError(
            "give INPUT files or folders, or --demo, not both" if demo else "give an INPUT, or --demo"
        )
    from ..study import DEFAULT_SCHEMES, Scheme, demo_inputs, prepare

    console = make_console()
    try:
        chosen = [Scheme.parse(s) for s in schemes] or DEFAULT_SCHEMES
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("scheme "), param_hint="--scheme") from error
    found: Demo | None = demo_inputs() if demo else None
    study, tensors = prepare(found.inputs if found else inputs, chosen, include=include, exclude=exclude)
    study.notes += found.notes if found else []
    folder = writable(out or Path("study-" + (found.title if found else inputs[0].resolve().stem)))
    for note in study.notes:
        console.print(
            note, style="yellow" if note.startswith("SYNTHETIC") else "", markup=False, highlight=False
        )
    _sweep(study, tensors, threads)
    _finish(study, folder, console)
    if study.partial:
        sys.exit(INTERRUPTED if study.partial == BY_USER else 1)


def _sweep(study: Study, tensors: list[Any], threads: int | None) -> None:
    """Fill the study with a progress bar; whatever stops it, the study says so and keeps what is done."""
    from ..study import CheckpointError, fill

    with progress_bar(study.settings["elements_selected"], rate="elements") as progress:
        try:
            fill(study, tensors, threads=threads, progress=progress)
        except KeyboardInterrupt:
            study.partial = BY_USER
        except CheckpointError as error:
            study.partial = str(error)


def _finish(study: Study, folder: Path, console: Console) -> None:
    from ..study.tables import plain, worst_table

    report = study.save(folder)
    if study.tensors:
        console.print(study.table())
        hardest = worst_table(study)
        if hardest.row_count:
            console.print(hardest)
    if study.skipped:
        first = study.skipped[0]
        more = f" and {len(study.skipped) - 1} more" if len(study.skipped) > 1 else ""
        console.print(
            f"Left out: {plain(first.name)} ({plain(first.reason)}){more}", markup=False, highlight=False
        )
    if study.partial:
        console.print(f"Partial: {study.partial}", style="bold red", markup=False, highlight=False)
    console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
