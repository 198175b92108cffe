"""Ready sets of golden vectors, one for each project, small enough to mail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .._progress import Meter, Progress
from .._recipes import one_of
from ..compare.manifest import read_manifest
from .writing import write, write_bytes, write_manifest

_Part = tuple[str, str, dict[str, Any]]
_UE8M0 = {"scale": "ue8m0", "layout": "packed_ue8m0"}
_MX = {"scale": "mx", "rule": "rceil", "block": (1, 32), "layout": "128x4"}
_NVFP4 = {"scale": "nvfp4", "rule": "nvfp4", "fmt": "float4_e2m1fn", "block": (1, 16), "layout": "128x4"}

SUITES: dict[str, tuple[_Part, ...]] = {
    "deepgemm": (
        ("tokens", "quantize", {"rule": "deepgemm", "layout": "mn_major"}),
        ("tokens_ue8m0", "quantize", {"rule": "deepgemm", **_UE8M0}),
        ("weights", "quantize", {"rule": "deepgemm", "block": (128, 128)}),
        ("gemm", "product", {"layout": "mn_major", "output": "bfloat16"}),
        ("gemm_float32", "product", {"layout": "mn_major"}),
        ("contiguous", "product", {"layout": "mn_major", "output": "bfloat16", "grouped": "contiguous"}),
        ("masked", "product", {"layout": "mn_major", "output": "bfloat16", "grouped": "masked"}),
    ),
    "vllm": (
        ("groups", "quantize", {"rule": "vllm"}),
        ("groups_ue8m0", "quantize", {"rule": "vllm", "scale": "ue8m0"}),
        ("groups_triton", "quantize", {"rule": "vllm_triton"}),
        ("nvfp4", "quantize", {**_NVFP4, "rule": "nvfp4_vllm"}),
        ("gemm", "product", {"rule": "vllm", "output": "bfloat16"}),
    ),
    "deepep": (
        ("dispatch", "quantize", {"rule": "deepep"}),
        ("dispatch_ue8m0", "quantize", {"rule": "deepep", **_UE8M0}),
        ("logfmt10", "logfmt", {"bits": 10}),
    ),
    "flashmla": (("cache", "quantize", {"rule": "vllm_fp8_ds_mla"}),),
    "blackwell": (
        ("mxfp8", "quantize", _MX),
        ("nvfp4", "quantize", _NVFP4),
        ("gemm_mxfp8", "product", {**_MX, "unit": "blackwell_mxf8", "promote_every": None}),
        ("gemm_nvfp4", "product", {**_NVFP4, "unit": "blackwell_nvfp4", "promote_every": None}),
    ),
}
"""Parts of each set: folder, operation, arguments that are not the defaults."""

_README = """# Golden vectors for {name}

Inputs, and what they must become bit for bit, for kernels of {name} and others that do the same. No package
of ours is needed to use them: each folder holds all tensors of one operation ({form}), and `manifest.json`
says what each of them is (file, dtype, shape, meaning, SHA-256), by which rule, unit and seed.

{parts}

A tensor's name begins with its case. Each case is there to catch one fault:

{cases}

How to use them: read `CASE.x` (or the codes and scales of both sides), run your kernel, and compare bytes
with `CASE.codes`, `CASE.scales` or `CASE.d`. Where `d` differs, `CASE.step_sums` and `CASE.promotion_sums`
show the first sum that does. Codes of 4 bits stand two in a byte, the low one first.

With the package: write your results in a folder with the same names and
`dsv3-numerics compare THIS YOURS` shows where they differ; `dsv3_numerics.compare` also says why.
Made by dsv3_numerics with seed {seed}: `dsv3-numerics golden suite --for {name} --seed {seed}`.
"""


def write_suite(
    name: str,
    folder: str | os.PathLike[str],
    *,
    form: str = "safetensors",
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a ready set: a folder for each operation, a manifest of all, and a README for strangers.

    Parameters
    ----------
    name : str
        One of `SUITES`.
    folder : path
    form, seed
        As for `write`.
    progress : callable, optional

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        An unknown word.
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> sorted(path.name for path in write_suite("flashmla", "vectors").iterdir())
    ['README.md', 'cache', 'manifest.json']
    """
    one_of(name, "suite", SUITES)
    place = Path(folder)
    meter = Meter(progress, float(len(SUITES[name])))
    cases: dict[str, str] = {}
    told = []
    for part, operation, arguments in SUITES[name]:
        meter.advance(part)
        write(operation, place / part, form=form, seed=seed, **arguments)
        manifest = read_manifest(place / part)
        cases.update(manifest["cases"])
        facts = ", ".join(f"{key} {value}" for key, value in manifest["arguments"].items())
        told.append(f"* `{part}/`: {operation} ({facts})")
        meter.advance(part, 1)
    listed = "\n".join(f"* `{case}`: {catches}" for case, catches in cases.items())
    text = _README.format(name=name, parts="\n".join(told), cases=listed, seed=seed, form=form)
    write_bytes(place / "README.md", text.encode())
    write_manifest(
        place, {"suite": name, "seed": seed, "parts": [part for part, _, _ in SUITES[name]], "tensors": []}
    )
    return place
