"""Converting a checkpoint: FP8 to plain numbers and back, file by file, in bounded memory.

Lives here: `convert`, the checks before it begins, and the files that are not tensors. What is done with each
tensor is decided in `plan` and done in `steps`; files and threads are in `pipeline`; what each task is in
`worker`, what is finished in the journal of `dsv3_numerics.tasks`.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..._arrays import positive
from ..._atomic import ensure_space, is_temporary, replacing, sync_folder
from ..._progress import Progress
from ...machine import get_num_threads
from ...schemes import Scheme
from ...tasks.journal import Journal, journals, open_journal, read_head, remove_journals, verb_of
from ...tasks.plan import Split
from ...tasks.task import Facts, Task
from .. import reader
from ..declared import CONFIG_NAME, HF_QUANT_NAME
from ..index import SUFFIX, shown
from ..reader import Checkpoint
from ..readers import CheckpointError, readable
from ..scan import FileFingerprint
from ..write import Layout
from .pipeline import place_below
from .plan import Plan, Shard, make_plan, to_json
from .targets import choose, target_name
from .worker import Conversion, ShardWriter

VERB = "convert"
_MOST_JOBS = 8  # by default; disks and memory have enough of it
_CHUNK = 4 << 20
# Files that tools keep beside a checkpoint: no part of it.
_NOT_COPIED = (".git", ".cache", "__pycache__")


@dataclass(frozen=True)
class ConvertReport:
    """Outcome of a conversion.

    Attributes
    ----------
    path : Path
        The destination.
    to : str
    files : int
        Files of tensors written, without those that an earlier run had finished.
    resumed : int
        Files of an earlier run that were found whole.
    tensors : mapping of str to int
        Tensors in all files by what is done with them: copied, dequantized, quantized, requantized, recoded
        (without loss), widened.
    errors : mapping of str to float
        Relative error (root mean square) of each tensor that was rounded to another low-precision form.
    bytes_read, bytes_written : int
        Of tensors, in this run.
    seconds : float
    verified : bool
    notes : tuple of str
        What the user should know.
    part : str
        The part that this run did, as "2/8"; empty: all, and the destination is complete.
    """

    path: Path
    to: str
    files: int
    resumed: int
    tensors: Mapping[str, int]
    errors: Mapping[str, float]
    bytes_read: int
    bytes_written: int
    seconds: float
    verified: bool
    notes: tuple[str, ...] = ()
    part: str = ""


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str | Scheme,
    dialect: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    threads: int | None = None,
    verify: bool = False,
    resume: bool = False,
    missing_scale: float | None = None,
    part: str | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a checkpoint between low precision and plain numbers, or between dialects of low precision.

    Everything that is not converted is the same byte for byte: other tensors, and other files of the folder
    (tokenizer, README, code). The index and ``config.json`` are rewritten to fit. Tensors stay in files of
    the same names; new scales are in the file of their weight.

    Parameters
    ----------
    src : path
        What `open` takes.
    dst : path
        A folder that is empty or not there yet. For a `src` that is one file, a ``.safetensors`` file that is
        not there yet.
    to : str or Scheme
        bf16, f16 and f32 turn low-precision weights into numbers: ``float32(code) * scale``, for 16 bits
        rounded once more, to nearest even. What float16 cannot hold is an error, not an infinity. fp8 turns
        the weights that a release of the model's family has in FP8 into E4M3 codes with float32 scales of
        128x128 blocks by the rule ``deepseek_v3``; fp8-ue8m0 with powers of two for scales. What is FP8 in
        such blocks already stays, but for blocks whose scale is no power of two: for fp8-ue8m0 these are
        rounded a second time, an error of about 2.6%. Other low-precision weights become fp8 bit for bit, or
        are refused with the first block that cannot; so does MXFP4 that is to be nvfp4. fp8-row, fp8-tensor,
        mxfp8, mxfp4, nvfp4, int8, int4, or a scheme that one of these is, round, and the error of each
        tensor is reported.
    dialect : str, optional
        Whose layout low-precision weights get: "deepseek_v3", "deepseek_v4", "compressed-tensors",
        "modelopt", "quark", "mxfp8", "mistral"; by default the first that holds `to`.
    include, exclude : sequence of str
        Globs. Only weights with a name that matches one of `include` (if there are any) and none of `exclude`
        are converted; the others are copied.
    threads : int, optional
        Threads that work on chunks of tensors; as many as the core's, but at most 8, by default. The result
        is the same.
    verify : bool
        Read each file again before it gets its name, and compare it with what was computed.
    resume : bool
        Go on with a run of the same source and options that was stopped; files that are whole stay. One
        that is finished is left as it is.
    missing_scale : float, optional
        1: FP8 codes without scales are the numbers themselves; see `open`.
    part : str, optional
        Write only the I-th of N parts of the files, as "2/8", beside other processes or machines that write
        theirs; what this part has done already stays. `merge` (the verb) ends the conversion when all are
        done.
    dask : str, optional
        Let the workers of a Dask cluster write the files: the address of a scheduler, the path of its file,
        or "local:N" for N processes on this machine. `src` and `dst` must be on a file system that all see.
    progress : callable, optional
        Called as ``progress(file, done, total)`` with bytes read and written, from one thread at a time.

    Returns
    -------
    ConvertReport

    Raises
    ------
    CheckpointError
        The source cannot be read, contradicts itself or changes meanwhile; a weight has no scales, or one
        that is negative or not finite; NaN or infinity where codes should come from; a file that reads back
        different. Files that are whole by then stay, for `resume`.
    FileExistsError
        `dst` is not empty, and `resume` is not given.
    ValueError, TypeError
        `dst` is `src` or inside it, an unknown `to`, a glob of `include` without a tensor, other options than
        those of the run to be resumed.
    OSError
        `dst` cannot be written, or the disk has too little space, which is checked at the beginning.

    Notes
    -----
    Each file is written under a temporary name, synced, and renamed. Memory is bounded by a few chunks for
    each job, whatever the size of a tensor. The source is only read.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import checkpoint
    >>> w = np.ones((256, 200), np.float32)
    >>> checkpoint.save("w.safetensors", {"model.layers.0.mlp.up_proj.weight": w})
    >>> convert("w.safetensors", "w8.safetensors", to="fp8").tensors
    {'quantized': 1}
    >>> with checkpoint.open("w8.safetensors") as ckpt:
    ...     ckpt["model.layers.0.mlp.up_proj.weight_scale_inv"].shape
    (2, 2)
    """
    to = target_name(to)
    choose(to, dialect)  # which refuses what is not known
    split = Split.of(part, dask)
    if threads is not None and dask is not None:
        raise ValueError("threads: found them with dask, expected one of the two: Dask's do a file each")
    workers = min(get_num_threads(), _MOST_JOBS) if threads is None else positive(threads, "threads")
    arguments = Conversion(
        os.path.abspath(src),
        str(Path(dst).resolve()),
        to,
        dialect,
        tuple(include),
        tuple(exclude),
        verify,
        missing_scale,
    )
    return _convert(Path(src), arguments, workers, resume, split, progress)


def merge_conversion(folder: Path, progress: Progress | None = None) -> ConvertReport:
    """End a conversion whose parts are all done: copy what holds no tensors, write index and configuration.

    Raises
    ------
    ValueError
        Parts are missing or at work, or the source has changed.
    """
    _, given = read_head(journals(folder, VERB)[0])
    lists = {name: tuple(given.get(name, ())) for name in ("include", "exclude")}
    arguments = Conversion(**{**given, **lists, "dst": str(folder.resolve())})
    return _convert(Path(arguments.src), arguments, 1, True, Split(merge=True), progress)


def _convert(
    src: Path, arguments: Conversion, jobs: int, resume: bool, split: Split, progress: Progress | None
) -> ConvertReport:
    target, to = Path(arguments.dst), arguments.to
    start = time.perf_counter()
    if journals(src, VERB):
        raise CheckpointError(f"{src}: an unfinished conversion; finish it with resume first")
    with reader.open(src, missing_scale=arguments.missing_scale) as ckpt:
        source, single = ckpt.folder.resolve(), ckpt.is_single
        _ensure_apart(ckpt.path.resolve(), source, target, single)
        plan = make_plan(ckpt, to, arguments.include, arguments.exclude, arguments.dialect)
        run = _Run(ckpt, plan, arguments, jobs, split, progress)
        if single:
            run.one_file(resume)
        else:
            run.folder(resume)
    errors = {name: sums for facts in run.facts.values() for name, sums in facts["errors"].items()}
    requantized = sum(facts["requantized"] for facts in run.facts.values())
    return ConvertReport(
        target,
        to,
        len(run.todo),
        run.resumed,
        dict(plan.counts),
        {name: (e / x) ** 0.5 if x else 0.0 for name, (e, x) in sorted(errors.items())},
        sum(shard.bytes_read for shard in run.todo),
        sum(shard.layout.size for shard in run.todo),
        time.perf_counter() - start,
        arguments.verify,
        (*plan.notes, *_measured(errors, requantized, plan, complete=len(run.facts) == len(plan.shards))),
        "" if split.part is None else str(split.part),
    )


_Sums = Mapping[str, Sequence[float]]


def _errors(errors: _Sums) -> list[str]:
    """Sum up the errors of tensors that were rounded."""
    if not errors:
        return []
    lost, held = _added(errors)
    worst, (e, x) = max(sorted(errors.items()), key=lambda item: item[1][0] / (item[1][1] or 1))
    total, most = ((a / b) ** 0.5 if b else 0.0 for a, b in ((lost, held), (e, x)))
    return [
        f"{len(errors)} tensors were rounded, an error of {total:.2%} (root mean square); "
        f"the largest is {most:.2%}, of {shown(worst)}"
    ]


def _added(errors: _Sums) -> tuple[float, float]:
    """Add sums over tensors, rounded once."""
    return math.fsum(e for e, _ in errors.values()), math.fsum(x for _, x in errors.values())


def _ensure_apart(path: Path, source: Path, target: Path, single: bool) -> None:
    """Refuse to write where the source is."""
    if target in (path, source):
        raise ValueError(f"dst: found {target}, the source itself; expected another place")
    if not single and not {path, source}.isdisjoint(target.parents):
        raise ValueError(f"dst: found {target}, inside the source; expected a place outside it")


def _measured(errors: _Sums, requantized: int, plan: Plan, *, complete: bool) -> list[str]:
    if not plan.counts["requantized"]:
        return _errors(errors)
    if not requantized:
        return ["all scales were powers of two: codes and scales are as they were"] if complete else []
    lost, held = _added(errors)
    error = (lost / held) ** 0.5 if held else 0.0
    return [f"{requantized} blocks were rounded a second time, an error of {error:.2%} (root mean square)"]


class _Run:
    """One conversion that has been planned.

    Attributes
    ----------
    todo : list of Shard
        What no earlier run has finished, and this one is to.
    resumed : int
        Files that were there.
    facts : dict of str to dict
        By file that is whole: what its task found; see `ShardWriter`.
    """

    def __init__(
        self,
        ckpt: Checkpoint,
        plan: Plan,
        arguments: Conversion,
        jobs: int,
        split: Split,
        progress: Progress | None,
    ) -> None:
        self._ckpt, self._plan, self._arguments, self._split = ckpt, plan, arguments, split
        self._target, self._jobs, self._progress = Path(arguments.dst), jobs, progress
        self._done = self._total = 0.0
        self.todo: list[Shard] = list(plan.shards)
        self.resumed = 0
        self.facts: dict[str, Facts] = {}

    def one_file(self, resume: bool) -> None:
        """File to file: whole or not there, so a run to be resumed begins again or is done."""
        if not self._split.alone:
            how = "part" if self._split.part else "dask"
            raise ValueError(f"{how}: found a source of one file, expected a folder: a task is a file")
        if self._target.suffix != SUFFIX:
            raise ValueError(f"dst: found {self._target}, expected a {SUFFIX} file, as the source is one")
        (shard,) = self._plan.shards
        self.todo = [Shard(self._target.name, shard.steps, shard.layout)]
        if os.path.lexists(self._target):
            if resume and _begins_with(self._target, shard.layout):
                self.todo, self.resumed = [], 1
                return
            what = ", and is no result of this conversion" if resume else ""
            raise FileExistsError(
                f"dst: {self._target} is there already{what}; remove it, or give another name"
            )
        self._ensure_space(0)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        writer = self._writer(self.todo, self._target.parent)
        writer.run(writer.tasks, self._moved, lambda task, facts: self.facts.update({task.name: facts}))

    def folder(self, resume: bool) -> None:
        """Folder to folder, with a journal."""
        source, split = self._ckpt.folder, self._split
        others = list(_others(source, self._ckpt.index_name))
        resume = resume or split.part is not None
        if resume and self._is_finished(others):
            self.todo, self.resumed = [], len(self._plan.shards)
            return
        self._ensure_fresh(resume)
        writer = self._writer(self._plan.shards, self._target)
        mine = split.tasks(writer.tasks)
        self.todo = [self._plan.shards[task.number] for task in mine]
        if split.part is not None:
            others = []  # whoever merges copies them
        if not resume:
            self._ensure_space(sum(size for _, size in others))
        self._target.mkdir(parents=True, exist_ok=True)
        with open_journal(
            self._target,
            VERB,
            self._head(),
            resume=resume,
            part=split.part,
            arguments=asdict(self._arguments),
        ) as journal:
            if split.part is None:
                _remove_temporaries(self._target)
            tasks = [task for task in mine if not self._is_whole(task, journal)]
            self.todo = [self._plan.shards[task.number] for task in tasks]
            self.resumed = len(mine) - len(tasks)
            others = [(file, size) for file, size in others if _size(self._target / file) != size]
            self._ensure_space(sum(size for _, size in others))
            split.within(self._arguments, self._target).perform(writer, tasks, self._moved, journal.note)
            self.facts = {task.name: journal.done[task.name] for task in mine}
            if split.part is None:
                for file, _ in others:
                    self._copy(file)
                self._finish()

    def _writer(self, shards: Sequence[Shard], folder: Path) -> ShardWriter:
        return ShardWriter(self._ckpt, shards, folder, self._jobs, self._arguments.verify)

    def _head(self) -> dict[str, object]:
        """Options and source, which must be the same in all runs and parts of a conversion."""
        given, source = self._arguments, self._ckpt.folder
        fingerprints = {
            file: list(FileFingerprint.of((source / file).stat())[:2]) for file in self._sources()
        }
        head: dict[str, object] = {
            "format": 2,
            "to": given.to,
            "include": list(given.include),
            "exclude": list(given.exclude),
            "verify": given.verify,
            "dialect": given.dialect,
            "missing_scale": given.missing_scale,
        }
        return {**head, "source": fingerprints}

    def _sources(self) -> Iterator[str]:
        yield from self._ckpt.files
        for name in (self._ckpt.index_name, CONFIG_NAME, HF_QUANT_NAME):
            if name is not None and (self._ckpt.folder / name).exists():
                yield name

    def _texts(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files that say what the others are."""
        plan = self._plan
        texts = (
            (HF_QUANT_NAME, plan.hf_quant),
            (CONFIG_NAME, plan.config),
            (self._ckpt.index_name, plan.index),
        )
        for name, content in texts:
            if name is not None and content is not None:
                yield name, to_json(content)

    def _is_finished(self, others: list[tuple[str, int]]) -> bool:
        """Tell if the destination is what this conversion makes, as far as sizes and headers tell."""
        target = self._target
        if not target.is_dir() or journals(target, VERB):
            return False
        return (
            all(_begins_with(target / shard.file, shard.layout) for shard in self._plan.shards)
            and all(_size(target / file) == size for file, size in others)
            and all(_size(target / n) == len(t) and (target / n).read_bytes() == t for n, t in self._texts())
        )

    def _ensure_fresh(self, resume: bool) -> None:
        """Refuse a destination with anything in it that is not ours."""
        if not os.path.lexists(self._target):
            return
        if not self._target.is_dir():
            raise FileExistsError(f"dst: {self._target} is not a folder")
        names = [
            name for name in os.listdir(self._target) if not is_temporary(name) and verb_of(name) is None
        ]
        if journals(self._target, VERB):  # looked for after the others: where they are, it was there before
            if not resume:
                raise FileExistsError(
                    f"dst: {self._target} holds an unfinished conversion; resume it, or remove it"
                )
        elif names:
            what = "nothing to resume, but is not empty" if resume else "is not empty"
            raise FileExistsError(
                f"dst: {self._target} has {what}" if resume else f"dst: {self._target} {what}"
            )

    def _is_whole(self, task: Task, journal: Journal) -> bool:
        facts, size = journal.done.get(task.name, {}), self._plan.shards[task.number].layout.size
        known = set(facts) == {"size", "requantized", "errors"}
        return known and facts["size"] == size == _size(self._target / task.name)

    def _ensure_space(self, others: int) -> None:
        """Fail now rather than after an hour."""
        ensure_space(self._target, sum(shard.layout.size for shard in self.todo) + others)
        self._total = sum(shard.bytes_read + shard.layout.size for shard in self.todo) + 2 * others

    def _moved(self, file: str, count: float) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(file, self._done, self._total)

    def _copy(self, file: str) -> None:
        """Copy a file that holds no tensors."""
        target = place_below(self._target, file)
        with open(self._ckpt.folder / file, "rb", buffering=0) as source, replacing(target, 0) as copy:
            at = 0
            while data := source.read(_CHUNK):
                copy.write(at, data)
                at += len(data)
                self._moved(file, 2 * len(data))

    def _finish(self) -> None:
        """Write configuration and index, and end the journal: they mark the result complete."""
        for name, data in self._texts():
            with replacing(self._target / name, len(data)) as file:
                file.write(0, data)
        remove_journals(self._target, VERB)
        sync_folder(self._target)


def _others(folder: Path, index: str | None) -> Iterator[tuple[str, int]]:
    """Files of a folder that hold no tensors and are copied, with their sizes.

    Links to files are followed where they stay in the folder or lead to a model cache's ``blobs``; links to
    folders are not, and neither are pipes and devices.

    Raises
    ------
    CheckpointError
        A file or folder that cannot be read, or a link that leads out.
    """

    def unreadable(error: OSError) -> None:
        raise CheckpointError(f"{error.filename}: {error.strerror}; convert what can be read") from error

    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in _NOT_COPIED)
        for name in sorted(files):
            path = Path(where, name)
            ours = Path(where) == folder and name in (index, CONFIG_NAME, HF_QUANT_NAME)
            if ours or is_temporary(name) or name.endswith((SUFFIX, SUFFIX + ".index.json")):
                continue
            with readable(path):
                status = path.stat()
                _ensure_inside(path, folder)
                if stat.S_ISREG(status.st_mode) and not os.access(path, os.R_OK):
                    raise CheckpointError(f"{path}: Permission denied; a copy would lack it")
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), status.st_size


def _ensure_inside(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the source, unless into the blobs of its model cache."""
    if not path.is_symlink():
        return
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise CheckpointError(
            f"{path}: a link to {target}, outside of the checkpoint; put a file in its place, or remove it"
        )


def _begins_with(path: Path, layout: Layout) -> bool:
    """Tell if a file has the size and the header of a layout."""
    if _size(path) != layout.size:
        return False
    with open(path, "rb", buffering=0) as file:
        return file.read(len(layout.header)) == layout.header


def _size(path: Path) -> int | None:
    """Return the size of a plain file; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _remove_temporaries(folder: Path) -> None:
    """Remove files that a killed run has left half-written."""
    for where, _, files in os.walk(folder):
        for name in files:
            if is_temporary(name):
                Path(where, name).unlink(missing_ok=True)
