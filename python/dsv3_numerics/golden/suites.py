"""Ready sets of golden vectors, one for each project, small enough to mail.

Lives here: `SUITES`, the table, and `write_suite`: one process, parts or workers of Dask, whose tasks are the
folders of a set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._atomic import is_temporary
from .._core import __version__
from .._progress import Meter, Progress
from .._recipes import one_of
from ..compare.manifest import MANIFEST, read_manifest
from ..tasks.journal import journals, open_journal, read_head, remove_journals, verb_of
from ..tasks.plan import Split
from ..tasks.task import Finished, Moved, Task
from .building import Request
from .suite_readme import readme
from .writing import FORMS, ensure_free, file_digest, is_complete, write, write_bytes, write_manifest

VERB = "golden"
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
    part: str | None = None,
    dask: str | None = None,
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
    part : str, optional
        Write only the I-th of N parts of the folders, as "2/8", beside other processes or machines; `merge`
        (the verb) writes README and manifest.
    dask : str, optional
        Let the workers of a Dask cluster write them: a scheduler's address or file, or "local:N".
    progress : callable, optional
        Called as ``progress(part, done, total)``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        An unknown word; a folder that was begun with another suite, form, seed or version, or that another
        process is at work in; `overwrite` with `part`.
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
    if overwrite and part is not None:
        raise ValueError("overwrite: found with part, whose folders stand beside those of others")
    of = SuiteOf(str(Path(folder).absolute()), name, form, seed, overwrite=overwrite)
    return _write(of, Split.of(part, dask), progress, Path(folder))


def merge_suite(folder: Path, progress: Progress | None = None) -> Path:
    """End a set whose parts are all done: write README and manifest.

    Raises
    ------
    ValueError
        Parts are missing or at work.
    """
    head, _ = read_head(journals(folder, VERB)[0])
    return _write(SuiteOf(str(folder.absolute()), **head), Split(merge=True), progress, folder)


def _write(of: SuiteOf, split: Split, progress: Progress | None, place: Path) -> Path:
    with of.open() as writer:
        _ensure_ours(of, place)
        if split.part is not None and not journals(place, VERB) and writer.is_finished():
            return place
        place.mkdir(parents=True, exist_ok=True)
        with open_journal(place, VERB, of.head(), resume=True, part=split.part) as journal:
            todo = [task for task in split.tasks(writer.tasks) if of.overwrite or not writer.is_whole(task)]
            meter = Meter(progress, float(len(todo)))
            split.within(of, place).perform(writer, todo, meter.advance, journal.note)
            if split.part is None:
                _finish(of, place)
                remove_journals(place, VERB)
    return place


def _ensure_ours(of: SuiteOf, place: Path) -> None:
    """Refuse a folder that holds something else; to overwrite, make way."""
    if (place / MANIFEST).is_file():
        held = read_manifest(place)
        asked = {"suite": of.suite, "form": of.form, "seed": of.seed}
        if any(held.get(key) != value for key, value in asked.items()):
            ensure_free(place, overwrite=of.overwrite)
    elif place.exists() and not of.overwrite and not journals(place, VERB):  # which say what it is of
        known = {part for part, _, _ in SUITES[of.suite]} | {"README.md"}
        for name in sorted(path.name for path in place.iterdir()):
            if not (name in known or is_temporary(name) or verb_of(name) == VERB):  # another part's, just now
                raise FileExistsError(f"{place}: holds {name}, expected a new or empty folder")
    if of.overwrite:
        remove_journals(place, VERB)


def _finish(of: SuiteOf, place: Path) -> None:
    """Write what stands beside the folders, the manifest last."""
    names = [part for part, _, _ in SUITES[of.suite]]
    manifests = [(part, read_manifest(place / part)) for part in names]
    write_bytes(place / "README.md", readme(of.suite, of.form, of.seed, __version__, manifests).encode())
    files = [*(f"{part}/{MANIFEST}" for part in names), "README.md"]
    listed = {
        file: {"bytes": (place / file).stat().st_size, "sha256": file_digest(place / file)} for file in files
    }
    about = {"suite": of.suite, "seed": of.seed, "form": of.form, "files": listed, "parts": names}
    write_manifest(place, {**about, "tensors": []})


@dataclass(frozen=True)
class SuiteOf:
    """Arguments of a set, from which any process writes its folders; see `write_suite`."""

    folder: str
    suite: str
    form: str
    seed: int
    version: str = __version__
    overwrite: bool = False

    @contextmanager
    def open(self) -> Iterator[SuiteWriter]:
        """Open what writes the folders."""
        yield SuiteWriter(self)

    def head(self) -> dict[str, Any]:
        """Return what must be the same in all runs and parts of a set."""
        return {key: value for key, value in asdict(self).items() if key not in ("folder", "overwrite")}


class SuiteWriter:
    """Writer of a set's folders, which are its tasks.

    Raises
    ------
    ValueError
        An unknown word; a set of another version of the package.
    """

    def __init__(self, of: SuiteOf) -> None:
        one_of(of.suite, "suite", SUITES)
        one_of(of.form, "form", FORMS)
        if of.version != __version__:
            told = f"found dsv3_numerics {__version__}, expected {of.version}, with which the set was begun"
            raise ValueError(f"version: {told}")
        self._of, self._place = of, Path(of.folder)
        self._requests = [
            Request.of(operation, arguments, of.seed, None, None, ())
            for _, operation, arguments in SUITES[of.suite]
        ]
        self.tasks = [Task(i, part, 1.0) for i, (part, _, _) in enumerate(SUITES[of.suite])]

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Write some of the folders."""
        of = self._of
        for task in tasks:
            moved(task.name, 0)
            part, operation, arguments = SUITES[of.suite][task.number]
            how: dict[str, Any] = {"form": of.form, "seed": of.seed, "overwrite": of.overwrite}
            write(operation, self._place / part, **how, **arguments)
            finished(task, {})
            moved(task.name, task.cost)

    def is_whole(self, task: Task) -> bool:
        """Tell whether a folder is there."""
        return is_complete(self._place / task.name, self._requests[task.number], self._of.form)

    def is_finished(self) -> bool:
        """Tell whether all are, and the manifest."""
        return (self._place / MANIFEST).is_file() and all(map(self.is_whole, self.tasks))
