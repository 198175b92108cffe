"""Tasks on the workers of a Dask cluster.

Lives here: `run`, which hands tasks to a scheduler and gives results back as they come. Which worker does
what, what happens to the tasks of one that is lost, and how all of them talk, is Dask's. Files are not sent:
all machines see one file system, which is checked before the first task.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._atomic import begin, discard
from .task import Facts, FileWorker, Finished, Moved, Opener, Task, Worker, digest

if TYPE_CHECKING:
    from distributed import Client

_LOCAL = re.compile(r"local:(\d{1,4})")
_ADDRESS = re.compile(r"(?:tcp|tls|ucx|ws|wss|inproc)://\S+|[A-Za-z0-9_.\-]+:\d{1,5}")
_WAIT = 60.0
"""Seconds until the first worker has to be there."""


def ensure_address(address: str) -> None:
    """Refuse what is no address, and a missing Dask, before any work.

    Raises
    ------
    ValueError
        With what an address looks like.
    """
    local = _LOCAL.fullmatch(address)
    known = address.endswith(".json") or _ADDRESS.fullmatch(address)
    if not (0 < int(local[1]) <= 1024 if local else known and not address.startswith("local:")):
        raise ValueError(
            f"dask: found {address[:80]!r}, expected a scheduler's address as tcp://host:8786, its file as "
            "scheduler.json, or local:N for N workers on this machine"
        )
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        told = f'dask: {error}; pip install "dsv3_numerics[cluster]"'
        raise ValueError(told) from error


def run(
    address: str,
    opener: Opener,
    plan: str,
    todo: Sequence[Task],
    folder: Path,
    moved: Moved,
    finished: Finished,
) -> None:
    """Do tasks on a cluster.

    Parameters
    ----------
    address : str
        Of a scheduler, the path of its file, or ``local:N``.
    opener : Opener
    plan : str
        Digest of all tasks: workers must list the same.
    todo : sequence of Task
    folder : Path
        That all workers must see.
    moved, finished : callable

    Raises
    ------
    OSError
        No scheduler, no worker, or a worker that does not see the folder.
    ValueError
        Of the first task that met one.
    """
    from distributed import KilledWorker, as_completed

    with _client(address) as client, client.as_current(), _marker(folder) as marker:
        _ensure_shared(client, marker)
        run_key = marker.name[1:-8]
        first = sorted(todo, key=lambda task: -task.cost)  # large ones, or one worker ends long after others
        tasks = {
            client.submit(
                _do,
                opener,
                plan,
                str(marker),
                task,
                key=f"{run_key}-{task.number}",
                priority=task.cost,
            ): task
            for task in first
        }
        waiting = as_completed(list(tasks))
        try:
            for future in waiting:
                task = tasks.pop(future)
                try:
                    facts = future.result()
                except KilledWorker as error:
                    raise OSError(
                        f"{task.name}: the workers that tried it died, {error.allowed_failures + 1} in a "
                        "row; they may lack memory: what is done is kept, and the same command goes on "
                        "(with --resume, where it has one)"
                    ) from error
                finished(task, facts)
                moved(task.name, task.cost)
                future.release()
        finally:
            client.cancel(list(tasks))


@contextmanager
def _client(address: str) -> Iterator[Client]:
    """Connect to a scheduler, or start workers on this machine."""
    import dask
    from distributed import Client, LocalCluster

    local = _LOCAL.fullmatch(address)
    with ExitStack() as stack:
        # Users see our progress and our errors; a worker's heartbeat is no news.
        stack.enter_context(dask.config.set({"distributed.logging.distributed": "error"}))
        where: dict[str, Any] = {"address": address}
        if local:
            cluster = LocalCluster(
                n_workers=int(local[1]),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any port: others may have clusters here
                silence_logs="ERROR",
            )
            where = {"address": stack.enter_context(cluster)}
        elif address.endswith(".json"):
            where = {"scheduler_file": str(Path(address).resolve(strict=True))}
        try:
            client = stack.enter_context(Client(**where, timeout=_WAIT, set_as_default=False))
        except (OSError, TimeoutError) as error:
            raise OSError(f"dask: no scheduler answers at {address}") from error
        try:
            client.wait_for_workers(1, timeout=_WAIT)
        except TimeoutError as error:
            raise OSError(f"dask: no worker came to {address} within {_WAIT:.0f} s") from error
        yield client


# --- The shared file system ---------------------------------------------------------------------------------


@contextmanager
def _marker(folder: Path) -> Iterator[Path]:
    """Write a file that all workers must see, and remove it at the end; a killed run leaves a leftover."""
    file = begin(folder.resolve() / "dsv3-numerics-seen")
    try:
        file.write(0, file.path.name.encode())
        file.sync()
        yield file.path
    finally:
        discard(file)


def _ensure_shared(client: Client, marker: Path) -> None:
    blind = sorted(set(client.run(_blind, str(marker)).values()) - {""})
    if blind:
        raise OSError("dask: " + "; ".join(blind))


def _blind(marker: str) -> str:
    """Say why this machine does not see a folder as the client does; empty if it does."""
    path, host = Path(marker), socket.gethostname()
    told = f"the worker on {host} does not see {path.parent} as this machine does"
    expected = "expected one file system that all machines share, under the same path"
    try:
        if path.read_bytes() != path.name.encode():
            return f"{told}; {expected}"
        if not os.access(path.parent, os.W_OK):
            return f"the worker on {host} cannot write into {path.parent}"
    except OSError as error:
        return f"{told} ({error.strerror}); {expected}"
    return ""


# --- In a worker's process ----------------------------------------------------------------------------------

_opening = threading.Lock()
_MOST_OPEN = 4
_open: dict[tuple[Opener, str], tuple[ExitStack, Worker]] = {}
"""Workers of the runs that this process is at work for; the oldest goes, closed when nothing uses it."""


def _do(opener: Opener, plan: str, marker: str, task: Task) -> Facts:
    """Do a task in a process of the cluster, on one thread: Dask counts those.

    While it waits for the disk it is not counted, and the next one begins.
    """
    from distributed import secede

    from .. import _core

    held = _opened(opener, plan, marker)
    if isinstance(held[1], FileWorker):
        held[1].on_disk = secede
    results: list[Facts] = []
    _core.set_alone(True)
    try:
        held[1].run([task], lambda name, cost: None, lambda task, facts: results.append(facts))
    finally:
        _core.set_alone(False)
    return results[0]


def _opened(opener: Opener, plan: str, marker: str) -> tuple[ExitStack, Worker]:
    with _opening:
        if (opener, marker) not in _open:
            if blind := _blind(marker):  # a worker that came later
                raise OSError(f"dask: {blind}")
            stack = ExitStack()
            worker = stack.enter_context(opener.open())
            if digest(worker.tasks) != plan:
                stack.close()
                raise ValueError(
                    f"dask: the worker on {socket.gethostname()} finds other tasks in the same source; "
                    "expected the same files and the same version of dsv3_numerics everywhere"
                )
            while len(_open) >= _MOST_OPEN:
                del _open[next(iter(_open))]
            _open[opener, marker] = stack, worker
        return _open[opener, marker]
