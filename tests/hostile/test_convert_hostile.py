"""Conversions that are killed, starved, lied to, or aimed at the wrong place."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import commands
import stored
from dsv3_numerics._atomic import PartialFile, is_temporary
from dsv3_numerics.checkpoint import CheckpointError, convert, open, save
from dsv3_numerics.tasks.journal import journal_name, open_journal

JOURNAL_NAME = journal_name("convert")
FP8 = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SCALE = "_scale_inv"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("wanted") / "out"
    convert(FP8, folder, to="bf16")
    return contents(folder)


# --- Killed and resumed -------------------------------------------------------------------------------------

# Kills itself at the n-th call of a function, without any chance to clean up. Within the second file it waits
# until the first has its name, which another thread gives it.
KILLER = """
import os, pathlib, signal, sys, time
from dsv3_numerics._atomic import PartialFile
from dsv3_numerics.checkpoint import convert
from dsv3_numerics.tasks import journal
owner, name, n, second, src, dst = sys.argv[1:]
owner = {"PartialFile": PartialFile, "Journal": journal.Journal}[owner]
real, count = getattr(owner, name), 0
def killing(self, *args):
    global count
    count += not second or self.path.name.startswith("." + second)
    if count == int(n):
        while second and '"task"' not in pathlib.Path(dst, journal.journal_name("convert")).read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args)
setattr(owner, name, killing)
convert(src, dst, to="bf16", threads=1)
"""


def killed(at: tuple[str, str, int, str], target: Path) -> None:
    """Run a conversion in a process of its own until it is killed."""
    command = [sys.executable, "-c", KILLER, *map(str, at), str(FP8), str(target)]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize(
    ("at", "whole"),
    [
        (("PartialFile", "write", 1, ""), []),  # of the journal
        (("PartialFile", "write", 20, ""), []),
        (("PartialFile", "sync", 1, ""), []),
        (("Journal", "note", 1, ""), SHARDS[:1]),
        (("PartialFile", "write", 3, SHARDS[1]), SHARDS[:1]),
        (("PartialFile", "sync", 1, SHARDS[1]), SHARDS[:1]),
        (("Journal", "note", 2, ""), SHARDS),
        (("PartialFile", "sync", 5, ""), SHARDS),  # of what comes after the tensors
    ],
    ids=str,
)
def test_kill_and_resume(
    tmp_path: Path, at: tuple[str, str, int, str], whole: list[str], wanted: dict[str, bytes]
) -> None:
    before, target = contents(FP8), tmp_path / "out"
    killed(at, target)
    assert contents(FP8) == before, "the source is whole"
    left = {name: data for name, data in contents(target).items() if not is_temporary(name)}
    noted = left.pop(JOURNAL_NAME, b"").decode()
    assert set(whole) <= set(left)
    assert all(wanted[name] == data for name, data in left.items()), "what has its name is complete"
    assert stored.INDEX not in left
    inodes = {name: (target / name).stat().st_ino for name in SHARDS if f'"task": "{name}"' in noted}
    convert(FP8, target, to="bf16", resume=True)
    assert contents(target) == wanted
    assert all((target / name).stat().st_ino == inode for name, inode in inodes.items()), "written once"


def stopped(target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A conversion whose disk is full when it has written the first of two files."""
    real = PartialFile.write

    def failing(self: PartialFile, offset: int, data: Any) -> None:
        if offset and self.path.name.startswith(f".{SHARDS[1]}"):
            while '"task"' not in (target / JOURNAL_NAME).read_text():
                time.sleep(0.01)
            raise OSError(28, "No space left on device")
        real(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "write", failing)
        with pytest.raises(OSError, match="No space left"):
            convert(FP8, target, to="bf16", threads=1, **options)


def test_a_full_disk_leaves_no_temporaries_and_can_be_resumed(
    tmp_path: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    stopped(target, monkeypatch)
    assert set(contents(target)) == {JOURNAL_NAME, SHARDS[0]}
    report = convert(FP8, target, to="bf16", resume=True)
    assert (report.files, report.resumed) == (1, 1)
    assert contents(target) == wanted


def test_a_file_size_limit_is_an_error_of_the_system(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource, sys\n"
        "from dsv3_numerics.checkpoint import convert\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "convert(sys.argv[1], sys.argv[2], to='f32')\n"
    )
    assert resource
    done = subprocess.run([sys.executable, "-c", code, FP8, tmp_path / "out"], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert "File too large" in done.stderr
    assert set(contents(tmp_path / "out")) == {JOURNAL_NAME}


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"[1-9][0-9.]+ MB are needed, 1\.05 MB are free"):
        convert(FP8, tmp_path / "out", to="bf16")
    assert not (tmp_path / "out").exists()


def test_resume_refuses_other_options_and_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    stopped(target, monkeypatch)
    with pytest.raises(FileExistsError, match="unfinished"):
        convert(FP8, target, to="bf16")
    for options in ({"to": "f16"}, {"to": "bf16", "verify": True}, {"to": "bf16", "include": ["*"]}):
        with pytest.raises(ValueError, match="begun with another"):
            convert(FP8, target, resume=True, **options)  # type: ignore[arg-type]
    other = tmp_path / "src"
    shutil.copytree(FP8, other)
    os.utime(other / SHARDS[0], (1, 1))
    with pytest.raises(ValueError, match="begun with another source"):
        convert(other, target, to="bf16", resume=True)
    with pytest.raises(CheckpointError, match="unfinished conversion"):
        convert(target, tmp_path / "third", to="f32")


def test_a_damaged_file_or_journal_is_not_taken_for_whole(
    tmp_path: Path, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    stopped(target, monkeypatch)
    os.truncate(target / SHARDS[0], 100)
    journal = target / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes() + b'{"task": "model-000')  # a line cut short
    assert convert(FP8, target, to="bf16", resume=True).resumed == 0
    assert contents(target) == wanted
    shutil.rmtree(target)
    stopped(target, monkeypatch)
    for content in (b"", b"[1]\n", b"{}\n", b"\xff\n", b'{"head": 3}\n'):
        journal.write_bytes(content)
        with pytest.raises(ValueError, match="not a journal"):
            convert(FP8, target, to="bf16", resume=True)


def test_two_at_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with (
        open_journal(tmp_path / "out", "convert", {}, resume=False),
        pytest.raises(ValueError, match="another process"),
    ):
        convert(FP8, tmp_path / "out", to="bf16", resume=True)


def test_an_interruption_stops_all_workers(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    def interrupt(file: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(FP8, tmp_path / "out", to="bf16", threads=4, progress=interrupt)
    assert set(contents(tmp_path / "out")) <= {JOURNAL_NAME, *SHARDS}
    seen: list[tuple[str, int, int]] = []
    convert(FP8, tmp_path / "out", to="bf16", resume=True, progress=lambda *news: seen.append(news))
    assert contents(tmp_path / "out") == wanted
    done = [news[1] for news in seen]
    assert done == sorted(done)
    assert 0.99 < done[-1] / seen[-1][2] <= 1


# A worker that has written waits for the signal, and then until it has stopped the others: nothing is late.
PACED = """
import threading
from dsv3_numerics import cli
from dsv3_numerics.checkpoint.conversion.pipeline import Pipeline
fail, do, failed = Pipeline._fail, Pipeline._do, threading.Event()
def failing(self, error):
    fail(self, error)
    failed.set()
def pacing(self, *args):
    do(self, *args)
    done("a chunk")
    failed.wait()
Pipeline._fail, Pipeline._do = failing, pacing
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("by", commands.STOPS)
def test_signals_stop_the_command(tmp_path: Path, by: signal.Signals) -> None:
    hole(tmp_path / "w.safetensors", (256, 256))
    args = ["convert", "w.safetensors", "out.safetensors", "--to", "f32"]
    code, _, err = commands.stopped(PACED, *args, after=1, by=by, folder=tmp_path)
    words = "interrupted" if by == signal.SIGINT else "terminated"
    assert (code, err.strip().splitlines()) == (commands.STOPS[by][0], [f"{words}; --resume does the rest"])
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


# --- Verified -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 9, -1])
def test_verify_finds_a_flipped_bit(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartialFile.sync

    def flipping(self: PartialFile) -> None:
        if self.path.name.startswith(f".{SHARDS[1]}"):
            data = bytearray(self.path.read_bytes())
            data[at] ^= 4
            self.path.write_bytes(data)
        real(self)

    monkeypatch.setattr(PartialFile, "sync", flipping)
    with pytest.raises(CheckpointError, match="different from what was computed"):
        convert(FP8, tmp_path / "out", to="bf16", verify=True)
    assert set(contents(tmp_path / "out")) <= {JOURNAL_NAME, SHARDS[0]}


def test_a_source_that_changes_meanwhile_gives_no_file(tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(FP8, source)

    def touch(file: str, done: float, total: float) -> None:
        os.utime(source / SHARDS[0], (1, 1))

    with pytest.raises(CheckpointError, match="changed since"):
        convert(source, tmp_path / "out", to="bf16", progress=touch, threads=1)
    assert SHARDS[0] not in contents(tmp_path / "out")


# --- Lied to ------------------------------------------------------------------------------------------------

E4M3 = ml_dtypes.float8_e4m3fn
CODES, ONES = np.ones((130, 130), E4M3), np.ones((2, 2), np.float32)
NAN = np.float32([[1, 1], [np.nan, 1]])
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("arrays", "to", "says"),
    [
        ({"w": CODES}, "bf16", "without scales"),
        ({"w": CODES, "w" + SCALE: ONES[:1]}, "bf16", r"found shape \[1, 2\], expected \[2, 2\]"),
        ({"w": CODES, "w" + SCALE: ONES.astype(np.float64)}, "bf16", "found F64"),
        ({"w": CODES, "w" + SCALE: NAN}, "bf16", "found nan at"),
        ({"w": CODES, "w" + SCALE: -ONES}, "fp8-ue8m0", "found -1.0"),
        ({"w": CODES, "w" + SCALE: ONES * np.inf}, "f32", "found inf"),
        ({"w": ONES, "w" + SCALE: ONES}, "bf16", "has scales, but is F32"),
        ({"w": CODES.reshape(-1), "w" + SCALE: ONES}, "bf16", "expected none"),
        ({UP: NAN}, "fp8", "found NaN"),
        ({UP: ONES * np.inf}, "fp8-ue8m0", "inf"),
    ],
)
def test_a_source_that_contradicts_itself(tmp_path: Path, arrays: dict, to: Any, says: str) -> None:
    save(tmp_path / "m.safetensors", arrays)
    with pytest.raises(CheckpointError, match=says):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors", to=to)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("name", ["../out.safetensors", "/tmp/out.safetensors", "a/../../b.safetensors"])
def test_an_index_cannot_write_outside(tmp_path: Path, name: str) -> None:
    source = stored.shards(tmp_path / "src", {"m.safetensors": {"w": ONES}})
    (source / stored.INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="expected a file below"):
        convert(source, tmp_path / "deep" / "out", to="bf16")
    assert not (tmp_path / "deep").exists()


def test_files_in_folders_of_the_index_keep_theirs(tmp_path: Path) -> None:
    source = stored.shards(
        tmp_path / "src", {"a/b/m.safetensors": {"w": CODES}, "n.safetensors": {"w" + SCALE: ONES}}
    )
    convert(source, tmp_path / "out", to="f32")
    with open(tmp_path / "out") as after:
        assert after.files == ("a/b/m.safetensors",)
        np.testing.assert_array_equal(after["w"], np.ones((130, 130), np.float32))


def test_a_link_in_the_destination_does_not_lead_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored.shards(tmp_path / "src", {"a/m.safetensors": {"w": ONES}})
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "sync", lambda self: 1 / (self.path.parent.name != "a"))
        with pytest.raises(ZeroDivisionError):
            convert(source, tmp_path / "out", to="bf16")
    (tmp_path / "out" / "a").rmdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(OSError, match="leads out of"):
        convert(source, tmp_path / "out", to="bf16", resume=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_tensors_beside_the_index_are_left_out_and_said(tmp_path: Path) -> None:
    source = stored.shards(tmp_path / "src", {"m.safetensors": {"w": ONES, "extra": ONES}})
    index = json.loads((source / stored.INDEX).read_text())
    del index["weight_map"]["extra"]
    (source / stored.INDEX).write_text(json.dumps(index))
    report = convert(source, tmp_path / "out", to="bf16")
    assert any("the index does not list" in note and "'extra'" in note for note in report.notes)
    with open(tmp_path / "out") as after:
        assert list(after) == ["w"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_and_loops_of_links_are_not_followed(tmp_path: Path) -> None:
    source = stored.shards(tmp_path / "src", {"m.safetensors": {"w": ONES}})
    os.mkfifo(source / "pipe")
    (source / "loop").symlink_to(source, target_is_directory=True)
    (source / "notes").write_text("copied")
    convert(source, tmp_path / "out", to="bf16")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.safetensors", stored.INDEX, "notes"]
    (source / "gone").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="gone: no such file"):
        convert(source, tmp_path / "other", to="bf16")


# --- Aimed wrong --------------------------------------------------------------------------------------------


def test_the_destination_is_neither_the_source_nor_inside_it(tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(FP8, source)
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    before = contents(source)
    for target in (source, source / "out", tmp_path / "link", tmp_path / "link" / "a" / "b"):
        for resume in (False, True):
            with pytest.raises(ValueError, match="dst: found"):
                convert(source, target, to="bf16", resume=resume)
    with pytest.raises(ValueError, match="the source itself"):
        convert(source / SHARDS[0], source / SHARDS[0], to="bf16", exclude=["*"])
    assert contents(source) == before


def test_what_is_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "precious").write_text("mine")
    for resume, says in ((False, "is not empty"), (True, "nothing to resume")):
        with pytest.raises(FileExistsError, match=says):
            convert(FP8, target, to="bf16", resume=resume)
    assert contents(target) == {"precious": b"mine"}
    with pytest.raises(FileExistsError, match="not a folder"):
        convert(FP8, target / "precious", to="bf16")
    with pytest.raises(OSError, match="Not a directory"):
        convert(FP8, target / "precious" / "below", to="bf16")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            convert(FP8, tmp_path / "out", to="bf16")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"to": "int5"}, ValueError),
        ({"to": "bf16", "threads": 0}, ValueError),
        ({"to": "bf16", "threads": 1.5}, TypeError),
        ({"to": "bf16", "include": ["x*"]}, ValueError),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"to|threads|include"):
        convert(FP8, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_finished_conversion_resumes_to_itself(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    for source, target in ((FP8, tmp_path / "out"), (FP8 / SHARDS[0], tmp_path / "x.safetensors")):
        options: Any = {"to": "bf16", "exclude": ["*"] if target.suffix else []}
        convert(source, target, resume=True, **options)  # nothing to resume: begun
        report = convert(source, target, resume=True, **options)
        assert (report.files, report.bytes_written) == (0, 0)
        other: Any = options | {"to": "f32"}
        if not target.suffix:
            with pytest.raises(FileExistsError, match="nothing to resume"):
                convert(source, target, resume=True, **other)
    assert contents(tmp_path / "out") == wanted


# --- Memory -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shape", [(16384, 16384), (2, 1 << 27)], ids=str)
def test_memory_does_not_grow_with_a_tensor(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A weight of 256 MiB; 96 MiB is twice what the cuts of two workers take."""
    hole(tmp_path / "w.safetensors", shape)
    code = (
        "import sys\n"
        "from dsv3_numerics import checkpoint\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before = peak()\n"
        "checkpoint.convert(sys.argv[1], sys.argv[2], to='bf16', threads=2)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "w.safetensors", tmp_path / "out.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 96
    assert (tmp_path / "out.safetensors").stat().st_size > 2 * math.prod(shape)


def hole(path: Path, shape: tuple[int, int]) -> None:
    """A weight whose codes are a hole in the file: it takes no time to make, and no space."""
    scales = np.ones([-(-n // 128) for n in shape], np.float32)
    end = scales.nbytes + math.prod(shape)
    header = {
        "w": stored.entry(list(shape), scales.nbytes, end, "F8_E4M3"),
        "w" + SCALE: stored.entry(list(scales.shape), 0, scales.nbytes),
    }
    path.write_bytes(stored.raw(header, scales.tobytes()))
    os.truncate(path, path.stat().st_size + math.prod(shape))


def test_links_out_of_the_source_are_refused(tmp_path: Path) -> None:
    source = stored.shards(tmp_path / "src", {"m.safetensors": {"w": ONES}})
    (tmp_path / "secret").write_text("x")
    (source / "inside.txt").write_text("x")
    (source / "again.txt").symlink_to("inside.txt")
    convert(source, tmp_path / "fine", to="bf16")
    assert (tmp_path / "fine" / "again.txt").read_text() == "x"
    (source / "link.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside of the checkpoint"):
        convert(source, tmp_path / "out", to="bf16")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored.shards(tmp_path / "src", {"m.safetensors": {"w": ONES}})
    (source / "code").mkdir()
    real = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("code"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(CheckpointError, match="code: Permission denied"):
        convert(source, tmp_path / "out", to="bf16")
    assert not (tmp_path / "out").exists()
