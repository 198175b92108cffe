"""Ready sets of golden vectors, one for each project, small enough to mail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .._core import __version__
from .._progress import Meter, Progress
from .._recipes import one_of
from ..compare.manifest import MANIFEST, read_manifest
from .suite_readme import readme
from .writing import ensure_free, file_digest, write, write_bytes, write_manifest

_Part = tuple[str, str, dict[str, Any]]
_UE8M0 = {"scale": "ue8m0", "layout": "packed_ue8m0"}
_ROWS = {"block": (1, 32), "b_block": (1, 32), "layout": "128x4"}
_MX = {"scale": "mx", "rule": "rceil", "block": (1, 32), "layout": "128x4"}
_NVFP4 = {"scale": "nvfp4", "rule": "nvfp4", "fmt": "float4_e2m1fn", "block": (1, 16), "layout": "128x4"}
_DECODE = {"model": "heads", "absorbed": True, "tokens": 1, "past": 20}
_FLASHMLA = '{"preset": "deepseek_v3", "cache": "flashmla"}'
_DS_MLA = '{"preset": "deepseek_v3", "cache": "fp8_ds_mla"}'
_LOGFMT = '{"preset": "deepseek_v3", "combine": "logfmt10"}'

SUITES: dict[str, tuple[_Part, ...]] = {
    "deepgemm": (
        ("tokens", "quantize", {"rule": "deepgemm", "layout": "mn_major"}),
        ("tokens_ue8m0", "quantize", {"rule": "deepgemm", **_UE8M0}),
        ("weights", "quantize", {"rule": "deepgemm", "block": (128, 128), "columns": 256}),
        ("gemm", "product", {"layout": "mn_major", "output": "bfloat16"}),
        ("gemm_float32", "product", {"layout": "mn_major"}),
        ("gemm_ue8m0", "product", {**_UE8M0, "unit": "blackwell_fp8"}),
        ("contiguous", "product", {"layout": "mn_major", "output": "bfloat16", "grouped": "contiguous"}),
        ("masked", "product", {"layout": "mn_major", "output": "bfloat16", "grouped": "masked"}),
        ("fprop", "fprop", {}),
        ("dgrad", "dgrad", {}),
        ("wgrad", "wgrad", {"n": 32, "k": 128}),
        ("wgrad_grouped", "wgrad", {"ks": (128, 0, 256), "n": 32, "k": 128}),
    ),
    "vllm": (
        ("groups", "quantize", {"rule": "vllm"}),
        ("groups_ue8m0", "quantize", {"rule": "vllm", "scale": "ue8m0"}),
        ("groups_triton", "quantize", {"rule": "vllm_triton"}),
        ("nvfp4", "quantize", {**_NVFP4, "rule": "nvfp4_vllm"}),
        ("gemm", "product", {"rule": "vllm", "output": "bfloat16"}),
        ("gate", "gate", {}),
        ("expert", "expert", {}),
        ("decode", "attention", {**_DECODE, "recipe": _DS_MLA}),
        ("forward", "forward", {}),
        ("forward_bf16", "forward", {"recipe": "bf16"}),
        ("forward_sparse", "forward", {"model": "tiny_dsa", "recipe": "bf16", "tokens": 12}),
    ),
    "deepep": (
        ("dispatch", "quantize", {"rule": "deepep"}),
        ("dispatch_ue8m0", "quantize", {"rule": "deepep", **_UE8M0}),
        ("logfmt10", "logfmt", {"bits": 10}),
        ("gate", "gate", {}),
        ("expert", "expert", {"model": "heads"}),
        ("expert_logfmt10", "expert", {"model": "heads", "recipe": _LOGFMT}),
    ),
    "flashmla": (
        ("cache", "quantize", {"rule": "vllm_fp8_ds_mla"}),
        ("decode", "attention", {**_DECODE, "recipe": _FLASHMLA}),
        ("decode_bf16", "attention", {**_DECODE, "recipe": "bf16"}),
        ("decode_two", "attention", {**_DECODE, "recipe": _FLASHMLA, "tokens": 2}),
        ("prefill", "attention", {"model": "heads", "recipe": "bf16", "tokens": 16}),
        ("sparse", "attention", {**_DECODE, "model": "heads_dsa", "recipe": "deepseek_v32"}),
        ("sparse_prefill", "attention", {"model": "heads_dsa", "recipe": "bf16", "tokens": 12, "batch": 1}),
    ),
    "blackwell": (
        ("mxfp8", "quantize", _MX),
        ("nvfp4", "quantize", _NVFP4),
        ("gemm_mxfp8", "product", {**_MX, **_ROWS, "unit": "blackwell_mxf8", "promote_every": None}),
        (
            "gemm_nvfp4",
            "product",
            {**_NVFP4, "b_block": (1, 16), "unit": "blackwell_nvfp4", "promote_every": None},
        ),
        (
            "contiguous_mxfp8",
            "product",
            {**_MX, **_ROWS, "unit": "blackwell_mxf8", "promote_every": None, "grouped": "contiguous"},
        ),
        ("expert_mxfp8", "expert", {"model": "heads", "recipe": "blackwell_mxfp8"}),
        ("expert_nvfp4", "expert", {"model": "heads", "recipe": "blackwell_nvfp4"}),
        ("layer_mxfp8", "layer", {"recipe": "blackwell_mxfp8", "tokens": 2}),
        ("forward_mxfp8", "forward", {"recipe": "blackwell_mxfp8"}),
        ("forward_nvfp4", "forward", {"recipe": "blackwell_nvfp4"}),
    ),
}
"""Parts of each set: folder, operation, arguments that are not the defaults."""


def write_suite(
    name: str,
    folder: str | os.PathLike[str],
    *,
    form: str = "safetensors",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a ready set: a folder for each operation, a manifest of all, and a README for strangers.

    Parameters
    ----------
    name : str
        One of `SUITES`.
    folder : path
        Parts that are there already are left as they are: an interrupted set goes on where it stopped.
    form, seed, overwrite
        As for `write`.
    progress : callable, optional
        Called as ``progress(part, done, total)``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        An unknown word.
    FileExistsError
        The folder holds something else.
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> place = write_suite("deepep", "vectors")
    >>> sorted(path.name for path in place.iterdir())[:4]
    ['README.md', 'dispatch', 'dispatch_ue8m0', 'expert']
    """
    one_of(name, "suite", SUITES)
    place = Path(folder)
    names = [part for part, _, _ in SUITES[name]]
    if (place / MANIFEST).is_file():
        held = read_manifest(place)
        asked = {"suite": name, "form": form, "seed": seed}
        if any(held.get(key) != value for key, value in asked.items()):
            ensure_free(place, overwrite=overwrite)
    elif place.exists() and not overwrite:
        strange = [path.name for path in sorted(place.iterdir()) if path.name not in (*names, "README.md")]
        if strange:
            raise FileExistsError(f"{place}: holds {strange[0]}, expected a new or empty folder")
    meter = Meter(progress, float(len(names)))
    for part, operation, arguments in SUITES[name]:
        meter.advance(part)
        write(operation, place / part, form=form, seed=seed, overwrite=overwrite, **arguments)
        meter.advance(part, 1)
    manifests = [(part, read_manifest(place / part)) for part in names]
    write_bytes(place / "README.md", readme(name, form, seed, __version__, manifests).encode())
    files = [*(f"{part}/{MANIFEST}" for part in names), "README.md"]
    listed = {
        file: {"bytes": (place / file).stat().st_size, "sha256": file_digest(place / file)} for file in files
    }
    write_manifest(
        place, {"suite": name, "seed": seed, "form": form, "files": listed, "parts": names, "tensors": []}
    )
    return place
