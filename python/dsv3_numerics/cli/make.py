"""The verb ``make``: a checkpoint of random weights, of any size."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import print_json, progress_bar, resumable
from .options import PATH, json_option
from .splitting import part_done, split_of, split_options

if TYPE_CHECKING:
    from ..model.synthetic import RandomCheckpoint

_KINDS: dict[str, dict[str, Any]] = {
    "fp8": {"fp8": True, "scale": "float32"},
    "fp8-ue8m0": {"fp8": True, "scale": "ue8m0"},
    "bf16": {"fp8": False},
}
_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@click.command("make")
@click.argument("folder", metavar="FOLDER", type=PATH)
@click.option(
    "--config",
    "config",
    default="tiny",
    show_default=True,
    metavar="C",
    help="tiny, deepseek_v3, or a config.json (or the folder that has one).",
)
@click.option("--layers", metavar="N", help="Only these layers, as 3 or 0,3-5  [default: everything].")
@click.option("--include", multiple=True, metavar="GLOB", help="Only tensors whose name matches; repeatable.")
@click.option("--weights", type=click.Choice(list(_KINDS)), default="fp8", show_default=True)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random numbers."
)
@split_options
@json_option
def make_command(
    folder: Path,
    config: str,
    layers: str | None,
    include: tuple[str, ...],
    weights: str,
    seed: int,
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Make a checkpoint of random weights in the release's format.

    FOLDER gets config.json, an index and safetensors files that every other verb takes: FP8 weights with a
    scale for each 128x128 block, BF16 embedding, head and norms. It is empty or not there yet; a run that was
    stopped goes on where it was, a finished one is left as it is. Tensors are streamed to the disk in little
    memory; whether they fit on it is checked before the first is written.

    \b
    --weights says what the large matrices are:
      fp8        E4M3 and float32 scales, as DeepSeek-V3
      fp8-ue8m0  E4M3 and power-of-two scales, as DeepSeek-V3.1
      bf16       plain numbers

    \b
    Sizes, for --config deepseek_v3:
      --layers 3 --include '*.self_attn.*'   0.2 GB  an attention layer
      --layers 3                            11.5 GB  a layer of 256 experts
      everything                             685 GB

    \b
    Examples:
      dsv3-numerics make tiny-v3                          a model that runs in milliseconds
      dsv3-numerics make layer3 --config deepseek_v3 --layers 3
      dsv3-numerics make attn --config deepseek_v3 --layers 3 --include '*.self_attn.*'
      dsv3-numerics make v3 --config deepseek_v3 --part 3/8
      dsv3-numerics run tiny-v3 --ids 3,1,4
    """
    from ..model import random_checkpoint

    split_of(part, dask)
    chosen = None if layers is None else _parse(layers)
    found = _config(config)
    with progress_bar() as progress, resumable("the same command goes on where it was"):
        made = random_checkpoint(
            folder,
            found,
            layers=chosen,
            include=include,
            seed=seed,
            part=part,
            dask=dask,
            progress=progress,
            **_KINDS[weights],
        )
    _tell(made, as_json)


def merge_make(folder: Path, as_json: bool) -> None:
    """End a checkpoint in parts."""
    from ..model.synthetic import merge_random

    _tell(merge_random(folder), as_json)


def _tell(made: RandomCheckpoint, as_json: bool) -> None:
    if as_json:
        print_json(made._asdict() | {"path": str(made.path)})
        return
    from ..report.text import counted

    what = f"{counted(made.files, 'file')}, {counted(made.tensors, 'tensor')}, {made.nbytes / 1e9:.3g} GB"
    if made.written:
        click.echo(f"{made.path}: {what}; {made.written / 1e9:.3g} GB written in {made.seconds:.1f} s")
    else:
        click.echo(f"{made.path}: {what}; everything was there")
    if made.part:
        part_done(made.path, made.part, "its files are there")


def _config(given: str) -> Any:
    from ..model import Config
    from ..model.config import PRESETS

    if given in PRESETS:
        return Config.preset(given)
    if not os.path.lexists(given):
        possible = f"{', '.join(PRESETS)}, or a file"
        raise click.BadParameter(f"found {given!r}, expected {possible}", param_hint="--config")
    return Config.from_json(given)


def _parse(layers: str) -> list[int]:
    found: list[int] = []
    for part in layers.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise click.BadParameter(f"found {part!r}, expected numbers as 3 or 0,3-5", param_hint="--layers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= 1 << 16:
            raise click.BadParameter(f"found {part!r}, expected fewer layers", param_hint="--layers")
        found += range(first, last + 1)
    return found
