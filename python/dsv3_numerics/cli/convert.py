"""The verb ``convert``: a checkpoint from FP8 to plain numbers, or back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import progress_bar, resumable

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
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; a finished one stays.")
@click.option(
    "--missing-scale",
    type=click.Choice(["1"]),
    help="1: FP8 codes without any scale are the numbers themselves.",
)
def convert_command(
    src: Path,
    dst: Path,
    to: Any,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    jobs: int | None,
    verify: bool,
    resume: bool,
    missing_scale: str | None,
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

    with progress_bar(rate="GB", scale=1e9) as progress, resumable("--resume does the rest"):
        report = convert(
            src,
            dst,
            to=to,
            include=include,
            exclude=exclude,
            jobs=jobs,
            verify=verify,
            resume=resume,
            missing_scale=1 if missing_scale else None,
            progress=progress,
        )
    _print(report)


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
