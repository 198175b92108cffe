"""The verb ``merge``: ends what was done in parts."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH, json_option


@click.command("merge")
@click.argument("folder", metavar="FOLDER", type=PATH)
@json_option
def merge_command(folder: Path, as_json: bool) -> None:
    """Put together what several runs with --part did, and write what comes last.

    FOLDER is where the parts wrote: DST of convert, --out of study and others. The result is the same as that
    of one run: the same files to the byte, the same figures. Parts that are missing or at work are an error,
    and nothing is changed.

    \b
    Examples:
      dsv3-numerics convert ./V3 ./V3-bf16 --to bf16 --part 1/2    (one machine)
      dsv3-numerics convert ./V3 ./V3-bf16 --to bf16 --part 2/2    (another)
      dsv3-numerics merge ./V3-bf16
    """
    from ..tasks.journal import journals, verb_of
    from .compare import merge_compare
    from .convert import merge_convert
    from .golden import merge_golden
    from .make import merge_make
    from .sensitivity import merge_sensitivity
    from .study import merge_study

    merges = {
        "compare": merge_compare,
        "convert": merge_convert,
        "golden": merge_golden,
        "make": merge_make,
        "sensitivity": merge_sensitivity,
        "study": merge_study,
    }
    verbs = sorted({verb for path in journals(folder) if (verb := verb_of(path.name))})
    if len(verbs) != 1 or verbs[0] not in merges:
        found = f"parts of {' and '.join(verbs)}" if verbs else "no parts of a run"
        raise click.ClickException(f"{folder}: found {found}, expected those of one of {', '.join(merges)}")
    merges[verbs[0]](folder, as_json)
