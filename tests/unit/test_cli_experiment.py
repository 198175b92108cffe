"""The verb ``experiment``: the table, a run and its files, short errors, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsv3_numerics import cli
from dsv3_numerics.experiments import EXPERIMENTS


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["experiment", *args])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys=capsys)
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    for row in EXPERIMENTS:
        assert f" {row.name} " in words
        assert row.shows.split()[-1] in words
        assert "arXiv" in words


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("--help", capsys=capsys)
    assert code == 0
    assert "Examples:" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["promotio"], 2, "did you mean promotion?"),
        (["promotion", "--seed", "-1"], 2, "--seed"),
        (["promotion", "--threads", "0"], 2, "--threads"),
        (["promotion", "--out", "file"], 1, "--out: cannot write into file"),
    ],
)
def test_errors_are_short(
    args: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    got, out, err = call(*args, capsys=capsys)
    assert (got, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 5
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing was written"


def test_a_run_is_written_where_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("combine", "--quick", "--seed", "3", "--threads", "1", capsys=capsys)
    assert (code, err) == (0, "")
    assert "LogFMT-10 sends 0.641 of BF16's bytes" in out
    content = json.loads(Path("experiment-combine/results.json").read_text())
    assert (content["experiment"], content["partial"]) == ("combine", None)
    assert (content["settings"]["seed"], content["settings"]["threads"]) == (3, 1)
    assert sorted(p.name for p in Path("experiment-combine").iterdir()) == [
        "bytes_sqnr.png",
        "report.md",
        "results.csv",
        "results.json",
    ]


SLOW = """
import signal, sys, time
from dsv3_numerics import cli, experiments
from dsv3_numerics.experiments import combine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
measure = combine._measure
def slowly(load, name, wire):
    rows = measure(load, name, wire)
    print("done", wire.name, file=sys.stderr, flush=True)
    time.sleep(0.5)
    return rows
combine._measure = slowly
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interruption_leaves_what_is_done(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, "experiment", "combine", "--quick", "--out", "out"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stderr is not None
        for _ in range(3):
            assert "done" in job.stderr.readline()
        time.sleep(0.1)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "Traceback" not in err
    assert "Partial: interrupted by the user" in out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["partial"] == "interrupted by the user"
    assert 2 <= len(content["rows"]) < 45
    assert "Partial: interrupted" in (tmp_path / "out" / "report.md").read_text()
