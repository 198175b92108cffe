"""Work on a Dask cluster of real processes: bytes and figures of one process, whoever is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import call
from dsv3_numerics import golden
from dsv3_numerics.checkpoint import convert
from dsv3_numerics.model import Config, random_checkpoint
from dsv3_numerics.tasks.cluster import ensure_address
from dsv3_numerics.tasks.journal import journal_name

pytest.importorskip("distributed", reason='pip install "dsv3_numerics[cluster]"')
if sys.platform == "win32":
    pytest.skip("named pipes and signals of POSIX", allow_module_level=True)

FP8 = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
TIMEOUT = 300  # seconds; nothing waits for this but a test that fails


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of several files."""
    folder = tmp_path_factory.mktemp("source") / "model"
    random_checkpoint(folder, Config.preset("tiny"), shard_bytes=200_000)
    assert len(list(folder.glob("*.safetensors"))) >= 6
    return folder


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of one process."""
    folder = tmp_path_factory.mktemp("wanted") / "out"
    convert(source, folder, to="bf16")
    return contents(folder)


class Cluster:
    """A scheduler and workers, each a process that the test may kill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        scheduler = self.start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        while not self.file.exists():  # which it writes when it listens
            assert scheduler.poll() is None
            time.sleep(0.05)

    def start(self, module: str, *args: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a process of Dask, of which the log is in the folder."""
        command = [
            *prefix,
            sys.executable,
            "-m",
            f"distributed.cli.{module}",
            "--scheduler-file",
            str(self.file),
        ]
        log = (self.folder / f"{module}-{len(self._processes)}.log").open("wb")
        with log:
            process = subprocess.Popen([*command, *args], cwd=self.folder, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def worker(self, *args: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a worker of one thread."""
        fixed = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        return self.start("dask_worker", *fixed, *args, prefix=prefix)

    def stop(self) -> None:
        """Kill all."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler; workers are for the test to start."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    found = Cluster(folder)
    try:
        yield found
    finally:
        found.stop()


class Meanwhile(threading.Thread):
    """A call in another thread, whose end and outcome the test waits for."""

    def __init__(self, what: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._what, self.result, self.error = what, None, None
        self.start()

    def run(self) -> None:
        """Make the call."""
        try:
            self.result = self._what()
        except BaseException as error:
            self.error = error

    def until(self, pipe: Path) -> None:
        """Wait for words in a named pipe; an error of the call comes instead of them."""
        handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with contextlib.closing(os.fdopen(handle, "rb")):
            while not select.select([handle], [], [], 0.1)[0] or not os.read(handle, 100):
                if not self.is_alive():
                    self.outcome()
                    pytest.fail("the call ended")

    def outcome(self) -> Any:
        """Wait for it."""
        self.join(TIMEOUT)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


# A worker that says when it is at a task (the n-th), and never ends it.
STUCK = """
import os, signal, sys
from dsv3_numerics.checkpoint.conversion.worker import ShardWriter
run, count = ShardWriter.run, 0
def stuck(self, tasks, moved, finished):
    global count
    count += 1
    if count == int(os.environ["STUCK_AT"]):
        with open(os.environ["STUCK_SAYS"], "w") as pipe:
            pipe.write("here")
        signal.pause()
    run(self, tasks, moved, finished)
ShardWriter.run = stuck
"""


def test_a_worker_that_is_killed_and_one_that_is_added(
    cluster: Cluster, source: Path, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = tmp_path / "says"
    os.mkfifo(says)
    (tmp_path / "stuck.py").write_text(STUCK)
    monkeypatch.setenv("STUCK_AT", "2")
    monkeypatch.setenv("STUCK_SAYS", str(says))
    lost = cluster.worker("--preload", str(tmp_path / "stuck.py"))
    run = Meanwhile(lambda: convert(source, tmp_path / "out", to="bf16", dask=str(cluster.file)))
    run.until(says)  # within its second task, and for ever
    cluster.worker()  # added
    lost.send_signal(signal.SIGKILL)
    report = run.outcome()
    assert report.files == len([name for name in wanted if name.endswith(".safetensors")])
    assert contents(tmp_path / "out") == wanted


# A client that is gone after so many tasks.
GONE = """
import os, signal, sys
from dsv3_numerics import cli
from dsv3_numerics.tasks.journal import Journal
note, left = Journal.note, int(sys.argv.pop(1))
def noting(self, task, facts):
    global left
    note(self, task, facts)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.note = noting
cli.main(sys.argv[1:])
"""


def test_a_client_that_is_gone_and_comes_back(
    cluster: Cluster, source: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    cluster.worker()
    target = tmp_path / "out"
    args = ["convert", str(source), str(target), "--to", "bf16", "--dask", str(cluster.file)]
    gone = subprocess.run([sys.executable, "-c", GONE, "2", *args], timeout=TIMEOUT, capture_output=True)
    assert gone.returncode == -signal.SIGKILL, gone.stderr
    assert (target / journal_name("convert")).read_text().count('"task"') == 2
    report = convert(source, target, to="bf16", dask=str(cluster.file), resume=True)
    assert report.resumed >= 2
    assert contents(target) == wanted


def test_a_study_by_two_workers_has_the_figures_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(
        "w.npz", **{f"t{i:02}": rng.normal(size=(8, 64)) for i in range(12)}, nan=np.full((2, 2), np.nan)
    )
    args = ["study", "w.npz", "-s", "mxfp4", "-s", "logfmt8:1x128"]
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 0
    code, _, err = call(*args, "--out", "dask", "--dask", "local:2", capsys=capsys)
    assert (code, "Traceback" in err) == (0, False), err
    assert Path("dask/results.csv").read_bytes() == Path("whole/results.csv").read_bytes()
    found, whole = (json.loads(Path(name, "results.json").read_text()) for name in ("dask", "whole"))
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert sorted(os.listdir("dask")) == sorted(os.listdir("whole"))


def test_a_comparison_by_two_workers_is_that_of_one_process(
    cluster: Cluster, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(source, other)
    file = next(iter(sorted(other.glob("*.safetensors"))))
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    cluster.worker()
    cluster.worker()
    args = ["compare", str(source), str(other)]
    assert call(*args, "--out", str(tmp_path / "whole"), capsys=capsys)[0] == 1
    code, out, err = call(*args, "--out", str(tmp_path / "dask"), "--dask", str(cluster.file), capsys=capsys)
    assert (code, "1 differ" in out) == (1, True), err
    assert contents(tmp_path / "dask") == contents(tmp_path / "whole")


def test_a_suite_by_two_workers_is_that_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker()
    cluster.worker()
    whole = contents(golden.write_suite("deepep", tmp_path / "whole"))
    golden.write_suite("deepep", tmp_path / "dask", part="2/3")  # goes on with what is there
    place = golden.write_suite("deepep", tmp_path / "dask", dask=str(cluster.file))
    assert contents(place) == whole
    assert contents(golden.write_suite("deepep", place, overwrite=True, dask=str(cluster.file))) == whole
    golden.write("cast", tmp_path / "foreign" / "gate", cases=["ties"])
    with pytest.raises(FileExistsError, match="other golden vectors"):
        golden.write_suite("deepep", tmp_path / "foreign", dask=str(cluster.file))


def test_make_and_sensitivity_by_two_workers_are_those_of_one_process(
    cluster: Cluster, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.worker()
    cluster.worker()
    runs = {
        "made": ["make", "{out}"],
        "sensitivity": ["sensitivity", str(source), "--ids", "1,2,3", "--only", "combine", "--out", "{out}"],
    }
    for name, words in runs.items():
        for way, more in (("whole", []), ("dask", ["--dask", str(cluster.file)])):
            out = tmp_path / f"{name}-{way}"
            code, _, err = call(*(word.format(out=out) for word in words), *more, capsys=capsys)
            assert (code, "Traceback" in err) == (0, False), err
        found, whole = (contents(tmp_path / f"{name}-{way}") for way in ("dask", "whole"))
        assert found.keys() == whole.keys()
        figures = [
            file for file in whole if file.endswith((".csv", ".safetensors", "index.json", "config.json"))
        ]
        assert figures
        assert {file: found[file] for file in figures} == {file: whole[file] for file in figures}


def test_an_error_in_a_task_is_that_of_one_process(tmp_path: Path, source: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    from dsv3_numerics import checkpoint

    with checkpoint.open(broken) as ckpt:
        info = next(info for info in ckpt.infos() if info.name.endswith("_scale_inv"))
    with (broken / info.file).open("r+b") as file:
        file.seek(info.begin)
        file.write(np.float32([-1]).tobytes())
    for how in ({}, {"dask": "local:1"}):
        with pytest.raises(ValueError, match=r"found -1\.0"):
            convert(broken, tmp_path / f"out{len(how)}", to="bf16", **how)  # type: ignore[arg-type]


def _has_namespaces() -> bool:
    command = ["unshare", "--mount", "--map-root-user", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _has_namespaces(), reason="no mount namespaces here")
def test_a_machine_that_does_not_see_the_files_is_refused(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """A worker with another file system at the destination."""
    target = tmp_path / "out"
    target.mkdir()
    hide = f'mount -t tmpfs none "{target}" && exec "$@"'
    cluster.worker(prefix=("unshare", "--mount", "--map-root-user", "sh", "-c", hide, "sh"))
    with pytest.raises(OSError, match=r"does not see .*one file system that all machines share"):
        convert(source, target, to="bf16", dask=str(cluster.file))
    assert [name for name in contents(target) if not name.startswith(".")] == []


@pytest.mark.parametrize(
    "address", ["local:0", "local:", "local:x", "somewhere", "", "tcp://", "local:99999"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="dask: found"):
        ensure_address(address)


def test_a_scheduler_that_does_not_answer_is_said(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsv3_numerics.tasks.cluster._WAIT", 1.0)
    with pytest.raises(OSError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        convert(source, tmp_path / "out", to="bf16", dask="tcp://127.0.0.1:9")
