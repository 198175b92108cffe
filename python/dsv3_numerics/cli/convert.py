"""The verb ``convert``: a checkpoint from FP8 to plain numbers, or back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..checkpoint import ConvertReport

_TARGETS = ("bf16", "f16", "f32", "fp8", "fp8-ue8m0")


@click.command("convert")
@click.argument("src", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("dst", metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(_TARGETS), help="What weights become.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Convert only weights whose name matches; repeatable."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Convert no weights whose name matches; repeatable."
)
@click.option("--jobs", type=click.IntRange(1, 1024), metavar="N", help="Threads  [default: CPUs, at most 8]")
@click.option("--verify", is_flag=True, help="Read every file again and compare before it gets its name.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
def convert_command(
    src: Path,
    dst: Path,
    to: Any,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    jobs: int | None,
    verify: bool,
    resume: bool,
) -> None:
    """Convert a checkpoint between FP8 with block scales and plain numbers.

    SRC is a folder of .safetensors, with or without an index, a model cache's folder, or one file. DST is an
    empty or new folder (a new file, where SRC is one). Weights that are not converted, and all other files,
    are copied; the index and config.json are rewritten. Needs no GPU, and little memory.

    \b
    --to says what weights become:
      bf16 f16 f32   FP8 codes times their scales, rounded to nearest even;
                     what f16 cannot hold (beyond 65504) is an error
      fp8            E4M3 with a float32 scale for each 128x128 block, for the
                     weights that DeepSeek-V3's release has in FP8
      fp8-ue8m0      the same with powers of two for scales; codes that are FP8
                     already are rounded a second time (error about 2.6%)

    A stopped run leaves SRC as it is, and whole files in DST; --resume does the rest.

    \b
    Examples:
      dsv3-numerics convert ./DeepSeek-V3 ./DeepSeek-V3-bf16 --to bf16
      dsv3-numerics convert ./my-bf16 ./my-fp8 --to fp8 --verify
      dsv3-numerics convert model.safetensors model-f32.safetensors --to f32
    """
    from ..checkpoint import convert

    with _Bar() as bar:
        report = convert(
            src,
            dst,
            to=to,
            include=include,
            exclude=exclude,
            jobs=jobs,
            verify=verify,
            resume=resume,
            progress=bar.show,
        )
    _print(report)


class _Bar:
    """A progress bar on standard error, where that is a terminal: part, rate in GB/s, time left."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            Task,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        class Rate(TextColumn):
            def render(self, task: Task) -> Any:
                self.text_format = f"{(task.speed or 0) / 1e9:5.2f} GB/s"
                return super().render(task)

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            Rate(""),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=10,
        )
        self._bar.__enter__()
        self._task = self._bar.add_task("", total=None)
        return self

    def show(self, file: str, done: float, total: float) -> None:
        """What `convert` reports."""
        from ..report.text import plain

        self._bar.update(self._task, description=plain(file)[-36:].rjust(36), completed=done, total=total)

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)


def _print(report: ConvertReport) -> None:
    from ..report.text import plain

    for note in report.notes:
        click.echo(f"note: {plain(note)}", err=True)
    tensors = ", ".join(f"{count} {verb}" for verb, count in report.tensors.items())
    rate = (report.bytes_read + report.bytes_written) / max(report.seconds, 1e-9) / 1e9
    earlier = f" ({report.resumed} more were there)" if report.resumed else ""
    checked = ", verified" if report.verified else ""
    files = f"{report.files} file{'' if report.files == 1 else 's'}{earlier}"
    click.echo(f"{plain(str(report.path))}: {files}; tensors: {tensors or 'none'}")
    click.echo(
        f"{report.bytes_read / 1e9:.2f} GB read, {report.bytes_written / 1e9:.2f} GB written in "
        f"{report.seconds:.1f} s, {rate:.2f} GB/s{checked}"
    )
