"""The command ``dsv3-numerics``: one verb for each thing that the package does.

Verbs parse, call the library and print; what they print is made by the library. Wrong input ends in one line
on standard error, not in a traceback. Exit codes: 0 well, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from .formats import FormatInfo
    from .study import Study
    from .study.demo import Demo

INTERRUPTED = 130

_EXAMPLES = """
\b
Examples:
  dsv3-numerics study --demo                        study a small trained network
  dsv3-numerics study model.safetensors             study a file, or a checkpoint folder
  dsv3-numerics formats float8_e4m3fn               all values of a format
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(package_name="dsv3_numerics", prog_name="dsv3-numerics")
def cli() -> None:
    """Small number formats and shared scales, as DeepSeek-V3 uses them, on any CPU."""


@cli.command("formats")
@click.argument("name", required=False)
def formats_command(name: str | None) -> None:
    """List the number formats, or print the values of one.

    \b
    Examples:
      dsv3-numerics formats                the table of formats
      dsv3-numerics formats float8_e4m3fn  every value of one of them
      dsv3-numerics formats e4m3           the same, by its short name
    """
    console = _console()
    if name is None:
        console.print(_formats_table())
        return
    info = _find_format(name)
    console.print(str(info), markup=False)
    console.print()
    for line in _few_values(info) if info.bits > 8 else _all_values(info):
        console.print(line, markup=False, highlight=False)


def _find_format(name: str) -> FormatInfo:
    from .formats import format_info
    from .study.schemes import short_names

    long = {short: full for full, short in short_names().items()}
    try:
        return format_info(long.get(name.lower(), name))
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("dtype: "), param_hint="NAME") from error


def _formats_table() -> Table:
    from rich import box
    from rich.table import Table

    from .formats import formats
    from .study.schemes import short_names

    short = short_names()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(
        ("name", "in schemes", "bits", "exp/man", "bias", "largest", "least normal", "least", "specials")
    ):
        table.add_column(title, justify="right" if 1 < i < 8 else "left", no_wrap=True)
    for f in formats():
        specials = [
            what for what, has in (("Inf", f.has_inf), ("NaN", f.has_nan), ("-0", f.has_signed_zero)) if has
        ]
        figures = (f.max, f.tiny, f.smallest_subnormal)
        table.add_row(
            f.name,
            short.get(f.name, "(scales)"),
            str(f.bits),
            f"{f.exponent_bits}/{f.mantissa_bits}",
            str(f.bias),
            *(f"{value:.5g}" for value in figures),
            " ".join(specials) or "none",
        )
    return table


_PER_LINE = 8


def _all_values(info: FormatInfo) -> list[str]:
    """The values of all codes, 8 to a line; of signed formats the codes with a clear sign bit."""
    import numpy as np

    from .formats import decode

    signed = info.min < 0
    codes = np.arange(info.n_codes // 2 if signed else info.n_codes, dtype=np.uint8)
    values = decode(codes.view(info.dtype), dtype=np.float64)
    texts = [f"{v:.9g}" if np.isfinite(v) else str(v).replace("nan", "NaN") for v in values]
    width = max(map(len, texts)) + 2
    lines = ["code    " + "".join(f"+{i}".rjust(width) for i in range(min(_PER_LINE, len(texts))))]
    for start in range(0, len(texts), _PER_LINE):
        lines.append(f"0x{start:02x}    " + "".join(t.rjust(width) for t in texts[start : start + _PER_LINE]))
    how = "with the sign bit set" if not info.is_integer else "in two's complement"
    return [*lines, "", f"The same values with a minus sign have their codes {how}."] if signed else lines


def _few_values(info: FormatInfo) -> list[str]:
    """The octaves of a wide format: where each begins, and the step in it; the middle ones are left out."""
    import math

    low, high = math.floor(math.log2(info.tiny)), math.floor(math.log2(info.max))
    rows = [("0", f"{info.tiny:.9g}", f"{info.smallest_subnormal:.9g}")]
    for k in range(low, high + 1):
        rows.append(
            (
                f"{2.0**k:.9g}",
                f"{min(2.0 ** (k + 1), info.max):.9g}",
                f"{2.0 ** (k - info.mantissa_bits):.9g}",
            )
        )
    if len(rows) > 24:
        one = 1 - low  # the row that begins at 1
        rows = [*rows[:4], ("...", "...", "..."), *rows[one - 4 : one + 4], ("...", "...", "..."), *rows[-4:]]
    return [f"{a:>18}{b:>18}{c:>18}" for a, b, c in [("from", "to", "step"), *rows]]


@cli.command("study")
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
    from .study import DEFAULT_SCHEMES, Scheme, demo_inputs, prepare
    from .study.files import ensure_writable

    console = _console()
    try:
        chosen = [Scheme.parse(s) for s in schemes] or DEFAULT_SCHEMES
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("scheme "), param_hint="--scheme") from error
    found: Demo | None = demo_inputs() if demo else None
    study, tensors = prepare(found.inputs if found else inputs, chosen, include=include, exclude=exclude)
    study.notes += found.notes if found else []
    folder = out or Path("study-" + (found.title if found else inputs[0].resolve().stem))
    try:
        ensure_writable(folder)
    except OSError as error:
        raise click.ClickException(f"--out: cannot write into {folder}: {error.strerror or error}") from error
    for note in study.notes:
        console.print(
            note, style="yellow" if note.startswith("SYNTHETIC") else "", markup=False, highlight=False
        )
    _sweep(study, tensors, threads)
    _finish(study, folder, console)
    if study.partial:
        sys.exit(INTERRUPTED if study.partial == _BY_USER else 1)


_BY_USER = "interrupted by the user"


def _sweep(study: Study, tensors: list[Any], threads: int | None) -> None:
    """Fill the study with a progress bar; whatever stops it, the study says so and keeps what is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from .study import CheckpointError, fill
    from .study.tables import plain

    class Rate(TextColumn):
        def render(self, task: Task) -> Any:
            self.text_format = f"{(task.speed or 0) / 1e6:6.1f} M elements/s"
            return super().render(task)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, speed_estimate_period=10) as bar:
        task = bar.add_task("", total=study.settings["elements_selected"])

        def progress(name: str, elements: float) -> None:
            bar.update(task, advance=elements, description=plain(name)[-36:].rjust(36))

        try:
            fill(study, tensors, threads=threads, progress=progress)
        except KeyboardInterrupt:
            study.partial = _BY_USER
        except CheckpointError as error:
            study.partial = str(error)


def _finish(study: Study, folder: Path, console: Console) -> None:
    from .study.tables import plain, worst_table

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


def _console() -> Console:
    """A console that fits its terminal; into a pipe or a file it writes lines of 120 columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def main(args: list[str] | None = None) -> None:
    """Run the command line; every expected failure ends in one line and an exit code."""
    try:
        code = cli.main(args, prog_name="dsv3-numerics", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (ValueError, TypeError, OSError) as error:
        click.echo(f"dsv3-numerics: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
