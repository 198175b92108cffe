"""The verb ``compare``: two results side by side, and why they differ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import ensure_place, error_text, print_json, progress_bar, writable_file
from .options import PATH, files_option, json_option
from .splitting import part_done, split_of, split_options

if TYPE_CHECKING:
    from ..compare import Comparison, Explanation, ModelComparison
    from ..tasks.plan import Split

DIFFERS, BAD = 1, 2


class BadInput(click.ClickException):
    """Input that cannot be compared."""

    exit_code = BAD


@click.command("compare")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option(
    "--quantized",
    metavar="X,CODES,SCALES",
    help="Why: B's codes and scales against quantizations of A's tensor X (names of the tensors; or "
    "X,CODES,SCALES,GLOBAL for NVFP4).",
)
@click.option(
    "--product",
    metavar="A,A_SCALES,B,B_SCALES,D",
    help="Why: B's tensor D against products of A's codes and scales (row by row; float32, float16, "
    "bfloat16, UE8M0 as float8_e8m0fnu, bytes or int32 words, float8_e4m3fn; or seven names, with "
    "A_GLOBAL,B_GLOBAL for NVFP4).",
)
@click.option(
    "--model", "as_model", is_flag=True, help="Layers, experts and next tokens of two dumps of one model."
)
@files_option(
    "--noise",
    "DUMP",
    "Dump of A's side that differs by chance; two or more make the noise floor of --model.",
)
@click.option("--html", type=PATH, metavar="FILE", help="Write a one-page report too.")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Write compare.json, compare.txt and compare.html into a folder.",
)
@click.option("--fmt", metavar="FORMAT", help="Format of codes that are held as plain unsigned integers.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; the exit code says it.")
@split_options
@json_option
def compare_command(
    a: Path,
    b: Path,
    quantized: str | None,
    product: str | None,
    as_model: bool,
    noise: tuple[Path, ...],
    html: Path | None,
    out: Path | None,
    fmt: str | None,
    quiet: bool,
    part: str | None,
    dask: str | None,
    as_json: bool,
) -> None:
    """Compare two files or folders of tensors bit for bit, and say where and by how much they differ.

    A and B are .npy, .npz, .safetensors or .pt files (tensors only: nothing in them is run), checkpoint
    folders, folders that `golden` wrote, dumps of SGLang (TP*_PP*_Rank*/Pass*.pt) or msprobe, or folders of
    such files. Names are matched as they are, then by a table of other projects' spellings; those without a
    partner are listed. Exit codes: 0 all equal, 1 something differs or has no partner, 2 bad input.

    Several machines that see A, B and --out share the comparison of large folders by --part, in jobs of any
    kind, or by --dask; the result is the same.

    \b
    Examples:
      dsv3-numerics compare ours.npz theirs.safetensors
      dsv3-numerics compare golden/ dump/ --json
      dsv3-numerics compare golden/ dump/ --quantized x,codes,scales --html why.html
      dsv3-numerics compare trace.npz sglang_dump/ --model --noise other1.npz --noise other2.npz
      dsv3-numerics compare ./V3-bf16 ./other-bf16 --out same --part 3/8
    """
    from ..compare import compare, compare_models
    from ..tasks.journal import remove_journals

    if noise and not as_model:
        raise click.UsageError("--noise: found without --model, which it is for")
    if quantized is not None and product is not None:
        raise click.UsageError("--product: found --quantized too, expected one of them")
    split = split_of(part, dask)
    _ensure_outputs(html, out)
    if not split.alone and (quantized or product or as_model):
        raise click.UsageError(f"--{'part' if part else 'dask'}: explanations and --model are not split")
    if not split.alone and out is None:
        raise click.UsageError(f"--{'part' if part else 'dask'}: found no --out, where all machines write")
    why: Explanation | None = None
    try:
        if split.alone or out is None:
            with progress_bar() as progress:
                found = compare(a, b, progress=progress)
        else:
            shared = _shared(a, b, out, html, split)
            if shared is None:
                part_done(out, part, "its tensors are compared")
                return
            found = shared
        if quantized is not None:
            why = _explained(a, b, quantized, fmt)
        elif product is not None:
            why = _explained_product(a, b, product, fmt)
        models = compare_models(a, b, noise=noise) if as_model else None
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(error_text(error)) from error
    content, lines = found.to_dict(), found.lines()
    if why is not None:
        content["why"] = why.to_dict()
        lines += ["", *why.lines()]
    if models is not None:
        content["model"] = models.to_dict()
        lines += ["", *models.lines()]
    _write(html, out, content, lines, found, why, models)
    if dask is not None and out is not None:
        remove_journals(out, "compare")
    _end(found, content, lines, quiet, as_json)


def _end(found: Comparison, content: dict[str, Any], lines: list[str], quiet: bool, as_json: bool) -> None:
    """Print, and exit with what the comparison says."""
    if as_json:
        print_json(content)
    elif not quiet:
        for line in lines:
            click.echo(line)
    if not found.equal:
        sys.exit(DIFFERS)


def _ensure_outputs(html: Path | None, out: Path | None) -> None:
    """Check what is written at the end; the exit code is not that of a difference."""
    try:
        if out is not None:
            ensure_place(out)
        if html is not None:
            writable_file(html, overwrite=True, option="--html")
    except click.ClickException as error:
        raise BadInput(error.message) from error


def _shared(a: Path, b: Path, out: Path, html: Path | None, split: Split) -> Comparison | None:
    """Compare beside other processes; None where a part is done."""
    from .._atomic import ensure_writable
    from ..compare.split import ComparisonOf, compare_split

    for path in (a, b):
        if not path.exists():
            raise FileNotFoundError(2, "No such file or folder", str(path))
    ensure_writable(out)
    of = ComparisonOf(str(a.resolve()), str(b.resolve()))
    arguments = {"html": None if html is None else str(html.absolute()), "a": str(a), "b": str(b)}
    with progress_bar(rate="GB", scale=1e9) as progress:
        found = compare_split(of, out.resolve(), split, arguments=arguments, progress=progress)
    if found is not None:
        found.a, found.b = str(a), str(b)  # as they were named
    return found


def merge_compare(folder: Path, as_json: bool) -> None:
    """End a comparison in parts."""
    from ..tasks.journal import journals, read_head, remove_journals
    from ..tasks.plan import Split

    _, given = read_head(journals(folder, "compare")[0])
    html = None if given["html"] is None else Path(given["html"])
    try:
        found = _shared(Path(given["a"]), Path(given["b"]), folder, html, Split(merge=True))
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(error_text(error)) from error
    assert found is not None
    content, lines = found.to_dict(), found.lines()
    _write(html, folder, content, lines, found, None, None)
    remove_journals(folder, "compare")
    _end(found, content, lines, False, as_json)


def _write(
    html: Path | None,
    out: Path | None,
    content: dict[str, Any],
    lines: list[str],
    found: Comparison,
    why: Explanation | None,
    models: ModelComparison | None,
) -> None:
    """Write the report, and the folder with all of it."""
    from ..compare.page import write_page
    from ..report.files import write_json, write_lines

    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_json(content, out / "compare.json")
            write_lines(lines, out / "compare.txt")
            write_page(out / "compare.html", found, why=why, models=models)
        if html is not None:
            write_page(html, found, why=why, models=models)
    except OSError as error:
        raise BadInput(error_text(error)) from error


def _explained(a: Path, b: Path, names: str, fmt: str | None) -> Explanation:
    """Explain codes and scales of B by an input in A."""
    from ..compare import explain_quantization
    from ..compare.sources import opened

    parts = names.split(",")
    if len(parts) not in (3, 4):
        raise ValueError(
            f"--quantized: found {names!r}, expected three names: X,CODES,SCALES (or four, with GLOBAL)"
        )
    with opened(a, "A") as left, opened(b, "B") as right:
        for side, held, name in (("A", left, parts[0]), *(("B", right, n) for n in parts[1:])):
            if name not in held:
                raise ValueError(
                    f"--quantized: found no tensor {name!r} in {side}: {', '.join(list(held)[:8])}"
                )
        outer = float(right[parts[3]].reshape(-1)[0]) if len(parts) == 4 else None
        return explain_quantization(
            left[parts[0]], right[parts[1]], right[parts[2]], fmt=fmt, global_scale=outer
        )


def _explained_product(a: Path, b: Path, names: str, fmt: str | None) -> Explanation:
    """Explain a product in B by codes and scales in A."""
    from ..compare import explain_product
    from ..compare.operands import operand
    from ..compare.sources import opened

    parts = names.split(",")
    if len(parts) not in (5, 7):
        raise ValueError(
            f"--product: found {names!r}, expected five names: A,A_SCALES,B,B_SCALES,D (or seven, with "
            "A_GLOBAL,B_GLOBAL)"
        )
    with opened(a, "A") as left, opened(b, "B") as right:
        inputs = (*parts[:4], *parts[5:])
        for side, held, name in (*(("A", left, n) for n in inputs), ("B", right, parts[4])):
            if name not in held:
                raise ValueError(
                    f"--product: found no tensor {name!r} in {side}: {', '.join(list(held)[:8])}"
                )
        outer: list[Any] = [left[name] for name in parts[5:]] or [None, None]
        first, second = (
            operand(left[parts[i]], left[parts[i + 1]], name=parts[i], fmt=fmt, global_scale=outer[i // 2])
            for i in (0, 2)
        )
        return explain_product(first, second, right[parts[4]])
