"""The verb ``golden``: inputs with known answers, for kernels and engines to be held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .console import progress_bar


@click.command("golden")
@click.argument("operation")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder  [default: golden-OPERATION]"
)
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
def golden_command(
    operation: str,
    out: Path | None,
    suite: str | None,
    form: str,
    seed: int,
    cases: tuple[str, ...],
    settings: tuple[str, ...],
) -> None:
    """Write golden vectors: inputs, scales in the kernel's layout, partial sums, outputs, and a manifest.

    OPERATION is cast, quantize, logfmt or product, or `suite` for a project's ready set with a README. The
    same command writes the same bytes on every machine. `list` shows operations, arguments and cases.

    \b
    Examples:
      dsv3-numerics golden list
      dsv3-numerics golden quantize --set rule=deepep --set layout=mn_major --out q
      dsv3-numerics golden product --set unit=ada_fp8 --set output=bfloat16 --form bin
      dsv3-numerics golden suite --for deepgemm --out vectors
    """
    from ..golden import OPERATIONS, write, write_suite

    if operation == "list":
        for line in _listed():
            click.echo(line)
        return
    folder = out or Path(f"golden-{suite or operation}")
    if operation == "suite":
        if suite is None:
            raise click.UsageError("suite: found no --for, expected a project")
        if settings or cases:
            raise click.UsageError("suite: found --set or --case, expected none: the set is ready")
        with progress_bar() as progress:
            click.echo(f"wrote {write_suite(suite, folder, form=form, seed=seed, progress=progress)}")
        return
    if suite is not None:
        raise click.UsageError(
            f"--for: found {suite!r} with {operation}, expected `golden suite --for {suite}`"
        )
    defaults = OPERATIONS[operation].defaults if operation in OPERATIONS else {}
    arguments = dict(_setting(text, defaults) for text in settings)
    click.echo(f"wrote {write(operation, folder, form=form, seed=seed, cases=cases or None, **arguments)}")


def _setting(text: str, defaults: Any) -> tuple[str, Any]:
    """Read NAME=VALUE: numbers where the default is one, two numbers for a block."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set: found {text!r}, expected NAME=VALUE")
    default = defaults.get(name)
    try:
        if isinstance(default, tuple):
            high, wide = value.replace("x", ",").split(",")
            return name, (int(high), int(wide))
        if isinstance(default, int):
            return name, None if value.lower() == "none" else int(value)
    except ValueError:
        raise click.UsageError(f"--set: found {text!r}, expected numbers as in {name}={default}") from None
    return name, value


def _listed() -> list[str]:
    from ..golden import OPERATIONS, SUITES
    from ..golden.inputs import CASES

    lines = []
    for name, row in OPERATIONS.items():
        lines += [f"{name}: {row.summary}", *(f"  {k}={json.dumps(v)}" for k, v in row.defaults.items())]
        lines.append(f"  cases: {', '.join(row.cases)}")
    lines += ["cases:", *(f"  {name}: {case.catches}" for name, case in CASES.items())]
    return [*lines, f"suites: {', '.join(SUITES)}"]
