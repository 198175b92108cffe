"""The verb ``experiment``: the table, a run and its files, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

import commands
from dsv3_numerics.experiments import EXPERIMENTS

call = partial(commands.call, "experiment")


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


PACED = """
from dsv3_numerics import cli, experiments
from dsv3_numerics.experiments import combine
measure = combine._measure
def pacing(load, name, wire):
    rows = measure(load, name, wire)
    done(wire.name)
    return rows
combine._measure = pacing
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("by", commands.STOPS)
def test_an_interruption_leaves_what_is_done(tmp_path: Path, by: signal.Signals) -> None:
    args = ["experiment", "combine", "--quick", "--out", "out"]
    code, out, err = commands.stopped(PACED, *args, after=3, by=by, folder=tmp_path)
    wanted, words = commands.STOPS[by]
    assert code == wanted, err
    assert "Traceback" not in err
    assert f"Partial: {words}" in out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["partial"] == words
    assert 2 <= len(content["rows"]) < 45
    assert f"Partial: {words}" in (tmp_path / "out" / "report.md").read_text()
