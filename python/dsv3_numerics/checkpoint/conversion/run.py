"""Converting a checkpoint: FP8 to plain numbers and back, file by file, in bounded memory.

Lives here: `convert`, the checks before it begins, and the files that are not tensors. What is done with each
tensor is decided in `plan` and done in `steps`; files and threads are in `pipeline`, what is finished in
`journal`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._arrays import positive
from ..._atomic import ensure_space, is_temporary, replacing, sync_folder
from ..._progress import Progress
from ...machine import get_num_threads
from .. import reader
from ..chunks import Stats
from ..declared import CONFIG_NAME, HF_QUANT_NAME
from ..index import SUFFIX, shown
from ..reader import Checkpoint
from ..readers import CheckpointError, readable
from ..scan import FileFingerprint
from ..write import Layout
from .journal import JOURNAL_NAME, Journal, open_journal
from .pipeline import Pipeline, place_below
from .plan import Plan, Shard, make_plan, to_json
from .targets import choose

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
        Relative error (root mean square) of each tensor that was rounded to another low-precision form in
        this run.
    bytes_read, bytes_written : int
        Of tensors, in this run.
    seconds : float
    verified : bool
    notes : tuple of str
        What the user should know.
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


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str,
    dialect: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    verify: bool = False,
    resume: bool = False,
    missing_scale: float | None = None,
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
    to : str
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
    jobs : int, optional
        Threads that work on chunks of tensors; as many as the core's, but at most 8, by default. The result
        is the same.
    verify : bool
        Read each file again before it gets its name, and compare it with what was computed.
    resume : bool
        Go on with a run of the same source and options that was stopped; files that are whole stay. One
        that is finished is left as it is.
    missing_scale : float, optional
        1: FP8 codes without scales are the numbers themselves; see `open`.
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
    choose(to, dialect)  # which refuses what is not known
    workers = min(get_num_threads(), _MOST_JOBS) if jobs is None else positive(jobs, "jobs")
    start = time.perf_counter()
    if os.path.lexists(Path(src) / JOURNAL_NAME):
        raise CheckpointError(f"{src}: an unfinished conversion; finish it with resume first")
    with reader.open(src, missing_scale=missing_scale) as ckpt:
        source, target = ckpt.folder.resolve(), Path(dst).resolve()
        single = ckpt.is_single
        _ensure_apart(ckpt.path.resolve(), source, target, single)
        plan = make_plan(ckpt, to, include, exclude, dialect)
        run = _Run(ckpt, plan, target, workers, verify, progress)
        if single:
            run.one_file(resume)
        else:
            options: dict[str, object] = {
                "to": to,
                "include": list(include),
                "exclude": list(exclude),
                "verify": verify,
            }
            if dialect is not None:
                options["dialect"] = dialect
            if missing_scale is not None:
                options["missing_scale"] = 1
            run.folder(options, resume)
    return ConvertReport(
        target,
        to,
        len(run.todo),
        len(plan.shards) - len(run.todo),
        dict(plan.counts),
        {name: (e / x) ** 0.5 if x else 0.0 for name, (e, x) in sorted(run.stats.errors.items())},
        sum(shard.bytes_read for shard in run.todo),
        sum(shard.layout.size for shard in run.todo),
        time.perf_counter() - start,
        verify,
        (*plan.notes, *_measured(run.stats, plan)),
    )


def _errors(stats: Stats) -> list[str]:
    """Sum up the errors of tensors that were rounded."""
    if not stats.errors:
        return []
    lost, held = (sum(column) for column in zip(*stats.errors.values(), strict=True))
    worst, (e, x) = max(stats.errors.items(), key=lambda item: item[1][0] / (item[1][1] or 1))
    total, most = ((a / b) ** 0.5 if b else 0.0 for a, b in ((lost, held), (e, x)))
    return [
        f"{len(stats.errors)} tensors were rounded, an error of {total:.2%} (root mean square); "
        f"the largest is {most:.2%}, of {shown(worst)}"
    ]


def _ensure_apart(path: Path, source: Path, target: Path, single: bool) -> None:
    """Refuse to write where the source is."""
    if target in (path, source):
        raise ValueError(f"dst: found {target}, the source itself; expected another place")
    if not single and not {path, source}.isdisjoint(target.parents):
        raise ValueError(f"dst: found {target}, inside the source; expected a place outside it")


def _measured(stats: Stats, plan: Plan) -> list[str]:
    if not plan.counts["requantized"]:
        return _errors(stats)
    if not stats.requantized:
        return ["all scales were powers of two: codes and scales are as they were"]
    lost, held = (sum(column) for column in zip(*stats.errors.values(), strict=True))
    error = (lost / held) ** 0.5 if held else 0.0
    return [
        f"{stats.requantized} blocks were rounded a second time, an error of {error:.2%} (root mean square)"
    ]


class _Run:
    """One conversion that has been planned.

    Attributes
    ----------
    todo : list of Shard
        What no earlier run has finished.
    stats : Stats
    """

    def __init__(
        self, ckpt: Checkpoint, plan: Plan, target: Path, jobs: int, verify: bool, progress: Progress | None
    ) -> None:
        self._ckpt, self._plan, self._target = ckpt, plan, target
        self._jobs, self._verify, self._progress = jobs, verify, progress
        self._done = self._total = 0
        self.todo: list[Shard] = list(plan.shards)
        self.stats = Stats()

    def one_file(self, resume: bool) -> None:
        """File to file: whole or not there, so a run to be resumed begins again or is done."""
        if self._target.suffix != SUFFIX:
            raise ValueError(f"dst: found {self._target}, expected a {SUFFIX} file, as the source is one")
        (shard,) = self._plan.shards
        self.todo = [Shard(self._target.name, shard.steps, shard.layout)]
        if os.path.lexists(self._target):
            if resume and _begins_with(self._target, shard.layout):
                self.todo = []
                return
            what = ", and is no result of this conversion" if resume else ""
            raise FileExistsError(
                f"dst: {self._target} is there already{what}; remove it, or give another name"
            )
        self._ensure_space(0)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._write(self._target.parent, lambda shard: None)

    def folder(self, options: Mapping[str, object], resume: bool) -> None:
        """Folder to folder, with a journal."""
        source = self._ckpt.folder
        others = list(_others(source, self._ckpt.index_name))
        if resume and self._is_finished(others):
            self.todo = []
            return
        self._ensure_fresh(resume)
        if not resume:
            self._ensure_space(sum(size for _, size in others))
        self._target.mkdir(parents=True, exist_ok=True)
        fingerprints = {
            file: list(FileFingerprint.of((source / file).stat())[:2]) for file in self._sources()
        }
        with open_journal(
            self._target, {"format": 1, **options, "source": fingerprints}, resume=resume
        ) as journal:
            _remove_temporaries(self._target)
            self.todo = [shard for shard in self._plan.shards if not self._is_whole(shard, journal)]
            others = [(file, size) for file, size in others if _size(self._target / file) != size]
            self._ensure_space(sum(size for _, size in others))
            self._write(self._target, lambda shard: journal.note(shard.file, shard.layout.size))
            for file, _ in others:
                self._copy(file)
            self._finish()

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
        if not target.is_dir() or os.path.lexists(target / JOURNAL_NAME):
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
        names = [entry.name for entry in self._target.iterdir() if not is_temporary(entry.name)]
        if JOURNAL_NAME in names:
            if not resume:
                raise FileExistsError(
                    f"dst: {self._target} holds an unfinished conversion; resume it, or remove it"
                )
        elif names:
            what = "nothing to resume, but is not empty" if resume else "is not empty"
            raise FileExistsError(
                f"dst: {self._target} has {what}" if resume else f"dst: {self._target} {what}"
            )

    def _is_whole(self, shard: Shard, journal: Journal) -> bool:
        path = self._target / shard.file
        return journal.done.get(shard.file) == shard.layout.size == _size(path)

    def _ensure_space(self, others: int) -> None:
        """Fail now rather than after an hour."""
        ensure_space(self._target, sum(shard.layout.size for shard in self.todo) + others)
        self._total = sum(shard.bytes_read + shard.layout.size for shard in self.todo) + 2 * others

    def _write(self, folder: Path, finished: Callable[[Shard], None]) -> None:
        pipeline = Pipeline(self._ckpt, folder, self._jobs, self._verify, self._moved, finished)
        try:
            pipeline.run(self.todo)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            why = os.strerror(error.errno)
            text = f"{why}: files that are whole stay; make space, and resume"
            raise OSError(error.errno, text, str(self._target)) from error
        finally:
            self.stats.add(pipeline.stats)

    def _moved(self, file: str, count: int) -> None:
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
        (self._target / JOURNAL_NAME).unlink()
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
