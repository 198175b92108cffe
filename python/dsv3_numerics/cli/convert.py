"""The verb ``convert``: a checkpoint out of low precision, into it, or between its dialects."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import print_json, progress_bar, resumable
from .options import PATH, glob_options, json_option, missing_scale_option, threads_option
from .splitting import part_done, split_of, split_options

if TYPE_CHECKING:
    from ..checkpoint import ConvertReport


@click.command("convert")
@click.argument("src", metavar="SRC", type=PATH)
@click.argument("dst", metavar="DST", type=PATH)
@click.option("--to", required=True, metavar="FORM", help="Form of the weights: see below.")
@click.option("--dialect", metavar="NAME", help="Whose layout low-precision weights get: see below.")
@glob_options("weights")
@threads_option("CPUs, at most 8")
@click.option("--verify", is_flag=True, help="Read every file again and compare before it gets its name.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; a finished one stays.")
@missing_scale_option
@split_options
@json_option
def convert_command(
    src: Path,
    dst: Path,
    to: str,
    dialect: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    threads: int | None,
    verify: bool,
    resume: bool,
    missing_scale: str | None,
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Convert a checkpoint out of low precision, into it, or between its dialects.

    SRC is a folder of .safetensors, with or without an index, a model cache's folder, or one file. DST is an
    empty or new folder (a new file, where SRC is one). Weights that are not converted, and all other files,
    are copied; the index and config.json are rewritten. Needs no GPU, and little memory.

    \b
    --to says what weights become:
      bf16 f16 f32   codes times their scales, rounded to nearest even;
                     what f16 cannot hold (beyond 65504) is an error
      fp8            E4M3 with a float32 scale for each 128x128 block, for the
                     weights that a release of the model's family has in FP8;
                     low precision of other dialects: bit for bit, or refused
      fp8-ue8m0      the same with powers of two for scales; codes in blocks
                     already are rounded a second time (error about 2.6%)
      nvfp4          MXFP4: bit for bit, or refused; others are rounded
      fp8-row fp8-tensor mxfp8 mxfp4 int8 int4
                     rounded; the error of each tensor is reported

    \b
    --dialect says whose layout they get; the first that holds FORM by default:
      deepseek_v3 deepseek_v4 compressed-tensors modelopt quark mxfp8 mistral

    Dialects that SRC may be in are listed by the verb dialects. What is declared or named in
    it and not understood stops the run before anything is written. A stopped run
    leaves SRC as it is, and whole files in DST; --resume does the rest.

    A checkpoint of several files can be converted by several machines that see SRC and DST: by --part, in
    jobs of any kind, or by --dask. Files are the same bytes whoever writes them.

    \b
    Examples:
      dsv3-numerics convert ./DeepSeek-V3 ./DeepSeek-V3-bf16 --to bf16
      dsv3-numerics convert ./my-bf16 ./my-fp8 --to fp8 --verify
      dsv3-numerics convert ./my-bf16 ./my-fp4 --to nvfp4 --dialect compressed-tensors
      dsv3-numerics convert model.safetensors model-f32.safetensors --to f32
      dsv3-numerics convert ./DeepSeek-V3 ./DeepSeek-V3-bf16 --to bf16 --part 3/8
      dsv3-numerics convert ./DeepSeek-V3 ./DeepSeek-V3-bf16 --to bf16 --dask tcp://head:8786
    """
    from ..checkpoint import convert

    split_of(part, dask, threads=threads)
    with progress_bar(rate="GB", scale=1e9) as progress, resumable("--resume does the rest"):
        report = convert(
            src,
            dst,
            to=to,
            dialect=dialect,
            include=include,
            exclude=exclude,
            threads=threads,
            verify=verify,
            resume=resume,
            missing_scale=1 if missing_scale else None,
            part=part,
            dask=dask,
            progress=progress,
        )
    _tell(report, as_json)


def merge_convert(folder: Path, as_json: bool) -> None:
    """End a conversion in parts."""
    from ..checkpoint.conversion.run import merge_conversion

    with progress_bar(rate="GB", scale=1e9) as progress, resumable("the same command goes on"):
        report = merge_conversion(folder, progress)
    _tell(report, as_json)


def _tell(report: ConvertReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report) | {"path": str(report.path)})
        return
    _print(report)
    if report.part:
        part_done(report.path, report.part, f"{report.files + report.resumed} files")


def _print(report: ConvertReport) -> None:
    from .._atomic import size_text
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
        f"{size_text(report.bytes_read)} read, {size_text(report.bytes_written)} written in "
        f"{report.seconds:.1f} s, {rate:.2f} GB/s{checked}"
    )
