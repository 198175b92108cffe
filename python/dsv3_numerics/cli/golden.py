"""The verb ``golden``: inputs with known answers, for kernels and engines to be held against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .console import ensure_place, print_json, progress_bar, resumable
from .options import PATH, json_option
from .splitting import part_done, split_of, split_options

_WORDS = ("list", "suite", "verify")


@click.command("golden")
@click.argument("operation")
@click.argument("folder", required=False, type=PATH)
@click.option("--out", type=PATH, metavar="DIR", help="Folder  [default: golden-OPERATION]")
@click.option(
    "--for", "suite", metavar="PROJECT", help="With `suite`: deepgemm, vllm, deepep, flashmla, blackwell."
)
@click.option(
    "--form", default="safetensors", show_default=True, help="safetensors, npz, or bin (raw files)."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--case", "cases", multiple=True, metavar="NAME", help="Only this kind of input; may be repeated."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of the operation, as rule=deepep, block=128,128, promote_every=none; may be repeated.",
)
@click.option(
    "--from",
    "source",
    metavar="CHECKPOINT",
    help="Real inputs too: a checkpoint, or demo for the demo model.",
)
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="NAME",
    help="With --from: a tensor, or an operation whose input it is; a second for the second input.",
)
@click.option("--recompute", is_flag=True, help="With `verify`: make every answer again too.")
@click.option("--overwrite", is_flag=True, help="Write a folder anew that holds another set.")
@split_options
@json_option
def golden_command(
    operation: str,
    folder: Path | None,
    out: Path | None,
    suite: str | None,
    form: str,
    seed: int,
    cases: tuple[str, ...],
    settings: tuple[str, ...],
    source: str | None,
    tensors: tuple[str, ...],
    recompute: bool,
    overwrite: bool,
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Write golden vectors: inputs, scales in the kernel's layout, partial sums, outputs, and a manifest.

    OPERATION is cast, quantize, logfmt, product, fprop, dgrad, wgrad, gate, expert, attention, layer or
    forward; or `suite` for a project's ready set with a README, or `verify` FOLDER. The same command writes
    the same bytes on every machine. `list` shows operations, their arguments, kinds of input, and suites.

    Inputs come in kinds, each there to catch one fault: normal numbers, ties, powers of two, cancellation,
    subnormals, one outlier, zero tiles, specials; --from adds real ones. A folder that is complete is left
    as it is; an interrupted suite goes on where it stopped. --part and --dask share out the folders of a
    suite; what else there is takes seconds, or is one pass through a model, and is not split.

    \b
    Examples:
      dsv3-numerics golden list
      dsv3-numerics golden quantize --set rule=deepep --set layout=mn_major --out q
      dsv3-numerics golden product --set unit=ada_fp8 --set grouped=masked --form bin
      dsv3-numerics golden quantize --from demo --tensor layer2.q_a_proj
      dsv3-numerics golden attention --set absorbed=true --set tokens=1 --set past=20
      dsv3-numerics golden forward --set model=./V3-tiny --set recipe=deepseek_v3
      dsv3-numerics golden suite --for deepgemm --out vectors
      dsv3-numerics golden suite --for vllm --out vectors --part 1/2    (and 2/2; then merge vectors)
      dsv3-numerics golden verify vectors --recompute
    """
    if folder is not None and operation != "verify":
        raise click.UsageError(f"found {str(folder)!r} after {operation}, expected --out {folder}")
    if recompute and operation != "verify":
        raise click.UsageError(f"--recompute: found with {operation}, expected it with verify")
    if suite is not None and operation != "suite":
        raise click.UsageError(
            f"--for: found {suite!r} with {operation}, expected `golden suite --for {suite}`"
        )
    _ensure_split(operation, part, dask, overwrite=overwrite)
    given = {"--set": settings, "--case": cases, "--from": source, "--tensor": tensors}
    unused = [name for name, value in given.items() if value]
    if operation in _WORDS and unused:
        raise click.UsageError(f"{operation}: found {unused[0]}, expected none")
    if operation == "list":
        _list(as_json=as_json)
    elif operation == "verify":
        _verify(folder, recompute=recompute, as_json=as_json)
    else:
        if operation == "suite" and suite is None:
            raise click.UsageError("suite: found no --for, expected a project")
        place = out or Path(f"golden-{suite or operation}")
        ensure_place(place)
        request = {
            "cases": cases or None,
            "source": source,
            "tensors": tensors,
            **_arguments(operation, settings),
        }
        how = {"form": form, "seed": seed, "overwrite": overwrite}
        if suite is not None:
            _write_suite(suite, place, part, {**how, "dask": dask}, as_json=as_json)
        else:
            _write(operation, place, request, how, as_json=as_json)


def _ensure_split(operation: str, part: str | None, dask: str | None, *, overwrite: bool) -> None:
    """Refuse ``--part`` and ``--dask`` with the reason, where there is nothing to share out."""
    from ..golden import OPERATIONS

    option = "--dask" if part is None else "--part"
    if (part or dask) and operation in (*_WORDS, *OPERATIONS) and operation != "suite":
        one = operation in OPERATIONS and OPERATIONS[operation].has_model
        why = "is one pass through a model, which goes step by step" if one else "takes seconds"
        raise click.UsageError(f"{option}: golden {operation} is not split: it {why}")
    split_of(part, dask)
    if part is not None and overwrite:
        raise click.UsageError("--overwrite: not with --part, whose folders stand beside those of others")


def _write(
    operation: str, place: Path, request: dict[str, Any], how: dict[str, Any], *, as_json: bool
) -> None:
    from ..golden import write

    with _refusing("--out, --overwrite"), progress_bar() as progress:
        write(operation, place, progress=progress, **request, **how)
    _tell(place, place / "manifest.json", as_json=as_json)


def _write_suite(suite: str, place: Path, part: str | None, how: dict[str, Any], *, as_json: bool) -> None:
    from ..golden import write_suite
    from ..golden.suites import VERB
    from ..tasks.journal import journals

    ways = "--out, --overwrite" if part is None else "--out"
    with _refusing(ways), progress_bar() as progress, resumable("the same command goes on where it was"):
        write_suite(suite, place, part=part, progress=progress, **how)
    if part is None or not journals(place, VERB):
        _tell(place, place, as_json=as_json)
    elif as_json:
        print_json({"suite": suite, "part": part, "folder": str(place)})
    else:
        part_done(place, part, "its folders are there")


def merge_golden(folder: Path, as_json: bool) -> None:
    """End a suite in parts."""
    from ..golden.suites import merge_suite

    _tell(merge_suite(folder), folder, as_json=as_json)


@contextmanager
def _refusing(ways: str) -> Iterator[None]:
    """Name the options that help where a folder holds something else."""
    try:
        yield
    except FileExistsError as error:
        raise click.ClickException(f"{error} ({ways})") from error


def _tell(place: Path, wrote: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(json.loads((place / "manifest.json").read_text()) | {"folder": str(place)})
    else:
        click.echo(f"wrote {wrote}")


def _verify(folder: Path | None, *, recompute: bool, as_json: bool) -> None:
    from ..golden import verify
    from ..report.text import counted

    if folder is None:
        raise click.UsageError("verify: found no folder, expected `golden verify FOLDER`")
    with progress_bar() as progress:
        found = verify(folder, recompute=recompute, progress=progress)
    if as_json:
        print_json({"folder": str(folder), **found._asdict()})
        return
    again = f", {found.recomputed} made again alike" if recompute else ""
    held = f"{counted(found.tensors, 'tensor')} in {counted(found.files, 'file')}: as the manifest says"
    click.echo(f"{folder}: {held}{again}")
    for name in found.unlisted:
        click.echo(f"not in the manifest: {name}")


def _arguments(operation: str, settings: tuple[str, ...]) -> dict[str, Any]:
    from ..golden import OPERATIONS

    defaults = OPERATIONS[operation].defaults if operation in OPERATIONS else {}
    return dict(_setting(text, defaults) for text in settings)


def _setting(text: str, defaults: Any) -> tuple[str, Any]:
    """Read NAME=VALUE: numbers where the default is one, several for a block, true or false for a switch."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set: found {text!r}, expected NAME=VALUE")
    default = defaults.get(name)
    try:
        if isinstance(default, tuple):
            return name, tuple(int(part) for part in value.replace("x", ",").split(","))
        if isinstance(default, bool):
            return name, {"true": True, "false": False}[value.lower()]
        if isinstance(default, int):
            return name, None if value.lower() == "none" else int(value)
    except (ValueError, KeyError):
        wanted = "true or false" if isinstance(default, bool) else f"numbers as in {name}={default}"
        raise click.UsageError(f"--set: found {text!r}, expected {wanted}") from None
    return name, value


def _list(*, as_json: bool) -> None:
    from ..golden import OPERATIONS, SUITES
    from ..golden.inputs import CASES

    if as_json:
        rows = {
            name: {"summary": row.summary, "arguments": dict(row.defaults), "cases": row.cases}
            for name, row in OPERATIONS.items()
        }
        cases = {name: case.catches for name, case in CASES.items()}
        print_json({"operations": rows, "cases": cases, "suites": list(SUITES)})
        return
    for name, row in OPERATIONS.items():
        click.echo(f"{name}: {row.summary}")
        click.echo(f"  {'  '.join(f'{k}={json.dumps(v)}' for k, v in row.defaults.items())}")
        click.echo(f"  cases: {', '.join(row.cases)}")
    click.echo("cases:")
    for name, case in CASES.items():
        click.echo(f"  {name}: {case.catches}")
    click.echo(f"suites: {', '.join(SUITES)}")
