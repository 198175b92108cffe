"""Files and threads of a conversion: workers that share the chunks, and files that appear when whole.

Lives here: `Pipeline`. Each worker reads, computes and writes one chunk after the other, preferably in a file
of its own, as two writers of one file would wait for each other; finished files are synced, verified and
renamed beside the work on the next. What the chunks are is decided in `steps`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ... import _core
from ..._atomic import PartialFile, begin, discard, publish
from ..chunks import Chunk, Stats, WorkerContext
from ..reader import Checkpoint
from ..readers import CheckpointError
from .plan import Shard
from .steps import Step

_READERS = 8  # of a file that is read back
_PART = 2 << 20  # bytes that one of them takes
_READ_BACK = 1 << 20  # bytes that it reads at a time


@dataclass
class _OpenShard:
    """A file in the making.

    Attributes
    ----------
    shard : Shard
    file : PartialFile
    chunks : iterator of (Step, Chunk)
        What nobody has begun.
    open_chunks : int
        Begun, but not ended.
    checksums : dict of int to (int, int)
        Length and CRC-32 of what was computed for each offset, where it is to be verified.
    stats : Stats
        Of the chunks that have ended.
    """

    shard: Shard
    file: PartialFile
    chunks: Iterator[tuple[Step, Chunk]]
    open_chunks: int = 0
    exhausted: bool = False
    checksums: dict[int, tuple[int, int]] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)


class Pipeline:
    """Writes the shards of a plan.

    Parameters
    ----------
    ckpt : Checkpoint
    folder : Path
        Where the shards' files go.
    jobs : int
        Workers.
    verify : bool
        Read each file again, and compare, before it gets its name.
    alone : bool
        Keep the arithmetic of a single worker on one thread, too.
    on_disk : callable
        Called, by the thread that runs it, when nothing is left but waiting for the disk.
    moved : callable
        Called with a file's name and the bytes read and written since the last call, by one thread at a time.
    finished : callable
        Called with each shard whose file has got its name, and the sums over its chunks, by one thread at a
        time.
    """

    def __init__(
        self,
        ckpt: Checkpoint,
        folder: Path,
        jobs: int,
        verify: bool,
        moved: Callable[[str, int], None],
        finished: Callable[[Shard, Stats], None],
        *,
        alone: bool = False,
        on_disk: Callable[[], None] = lambda: None,
    ) -> None:
        self._ckpt, self._folder, self._jobs, self._verify = ckpt, folder, jobs, verify
        self._alone, self._on_disk = jobs > 1 or alone, on_disk
        self._moved, self._finished = moved, finished
        self._lock = threading.Lock()  # of everything below
        self._calling = threading.Lock()  # of the callables
        self._waiting: deque[Shard] = deque()
        self._open_shards: list[_OpenShard] = []
        self._error: BaseException | None = None
        self._ends: list[Future[None]] = []

    def run(self, shards: list[Shard]) -> None:
        """Write them all; whatever goes wrong, files that are not whole are removed.

        Raises
        ------
        CheckpointError, OSError
            Of the first worker that met one.
        """
        self._waiting.extend(shards)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="finish") as self._finisher:
            workers = [threading.Thread(target=self._work, name=f"convert-{i}") for i in range(self._jobs)]
            try:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                self._on_disk()
                for end in self._ends:
                    end.result()
            except BaseException as error:  # an interruption, in the thread that waits
                self._fail(error)
                raise
            finally:
                for worker in workers:
                    if worker.ident is not None:
                        worker.join()
                for end in self._ends:
                    end.exception()
                for shard_file in self._open_shards:
                    discard(shard_file.file)
        if self._error is not None:
            raise self._error

    # --- Workers --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        # With several workers one thread is enough for each chunk; the core's own would only compete.
        _core.set_alone(self._alone)
        context = WorkerContext(self._ckpt)
        shard_file: _OpenShard | None = None
        try:
            while (task := self._next(shard_file)) is not None:
                shard_file, step, chunk = task
                self._do(shard_file, step, chunk, context)
                self._leave(shard_file, context)
        except BaseException as error:
            self._fail(error)
        finally:
            context.close()

    def _next(self, mine: _OpenShard | None) -> tuple[_OpenShard, Step, Chunk] | None:
        """Take a chunk of the same file, else of a new one, else of any; None when done or after an error."""
        with self._lock:
            while self._error is None:
                if mine is None or mine.exhausted:
                    mine = (
                        self._open()
                        if self._waiting
                        else next((x for x in self._open_shards if not x.exhausted), None)
                    )
                if mine is None:
                    return None
                task = next(mine.chunks, None)
                if task is not None:
                    mine.open_chunks += 1
                    return mine, *task
                mine.exhausted = True
                self._end_if_done(mine)
        return None

    def _open(self) -> _OpenShard:
        shard = self._waiting.popleft()
        file = begin(place_below(self._folder, shard.file), shard.layout.size)
        shard_file = _OpenShard(
            shard, file, ((step, chunk) for step in shard.steps for chunk in step.chunks())
        )
        self._open_shards.append(shard_file)
        self._put(shard_file, 0, memoryview(shard.layout.header))
        return shard_file

    def _do(self, shard_file: _OpenShard, step: Step, chunk: Chunk, context: WorkerContext) -> None:
        written = 0
        for op in step.run(chunk, context):
            self._put(shard_file, shard_file.shard.layout.begins[op.name] + op.offset, op.data.data)
            written += op.data.size
        whole = sum(entry.nbytes for entry in step.outputs)
        self._call(self._moved, shard_file.shard.file, written + step.bytes_read * written // max(whole, 1))

    def _put(self, shard_file: _OpenShard, offset: int, data: memoryview) -> None:
        if self._verify:
            shard_file.checksums[offset] = len(data), _core.crc32(np.frombuffer(data, np.uint8))
        shard_file.file.write(offset, data)

    def _leave(self, shard_file: _OpenShard, context: WorkerContext) -> None:
        with self._lock:
            shard_file.stats.add(context.stats)
            context.stats = Stats()
            shard_file.open_chunks -= 1
            self._end_if_done(shard_file)

    def _end_if_done(self, shard_file: _OpenShard) -> None:
        if shard_file.exhausted and not shard_file.open_chunks and self._error is None:
            self._open_shards.remove(shard_file)
            self._ends.append(self._finisher.submit(self._end, shard_file))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    # --- Finished files -------------------------------------------------------------------------------------

    def _end(self, shard_file: _OpenShard) -> None:
        try:
            shard_file.file.sync()
            for file in shard_file.shard.sources:
                with self._ckpt.reader(file):  # which refuses a file that has changed meanwhile
                    pass
            if self._verify:
                verify(shard_file.file.path, shard_file.checksums)
            publish(shard_file.file, self._folder / shard_file.shard.file)
        except BaseException as error:
            discard(shard_file.file)
            self._fail(error)
            return
        self._call(self._finished, shard_file.shard, shard_file.stats)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        with self._calling:
            function(*args)


def place_below(folder: Path, file: str) -> Path:
    """Where a file goes, its folder made; refused where a link in the destination leads out of it.

    Raises
    ------
    OSError
        Such a link, or a folder that cannot be made.
    """
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"dst: found a link in {target.parent} that leads out of {folder}")
    return target


def verify(path: Path, checksums: dict[int, tuple[int, int]]) -> None:
    """Read a synced file again, from the disk where the system lets go of its copy, and compare checksums.

    Several threads read at once: a disk that is asked for one piece after the other gives a fraction of its
    speed.

    Raises
    ------
    CheckpointError
        A byte is not what was computed.
    """
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        end = os.fstat(file.fileno()).st_size
    parts: list[list[_Sum]] = []
    at = size = 0
    for offset, (length, checksum) in sorted(checksums.items()):
        if offset != at:
            raise CheckpointError(f"{path}: bytes {at} to {offset} were never written")
        if not parts or size >= _PART:
            parts.append([])
            size = 0
        parts[-1].append(_Sum(offset, length, checksum))
        at, size = offset + length, size + length
    if at != end:
        raise CheckpointError(f"{path}: bytes {at} to its end were never written")
    with ThreadPoolExecutor(_READERS, thread_name_prefix="verify") as readers:
        for _ in readers.map(lambda part: _compare(path, part), parts):
            pass


class _Sum(NamedTuple):
    """CRC-32 of some bytes of a file."""

    offset: int
    length: int
    checksum: int


def _compare(path: Path, part: list[_Sum]) -> None:
    """Read bytes that lie together, and compare their checksums."""
    end = part[-1].offset + part[-1].length
    buffer = np.empty(min(_READ_BACK, end - part[0].offset), np.uint8)
    held = buffer[:0]
    with open(path, "rb", buffering=0) as file:
        file.seek(part[0].offset)
        for offset, length, checksum in part:
            found, rest = 0, length
            while rest:
                if not held.size:
                    held = buffer[: file.readinto(buffer.data)]
                if not held.size:
                    break
                found, held, rest = _core.crc32(held[:rest], found), held[rest:], max(rest - held.size, 0)
            if found != checksum or rest:
                raise CheckpointError(
                    f"{path}: bytes {offset} to {offset + length} were read back different from what was "
                    "computed; the disk or the memory of this machine is at fault"
                )
