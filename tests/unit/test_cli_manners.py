"""Manners that all verbs share: JSON, lists, lines in a log, exit codes of signals."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from commands import STOPS, call, stopped
from dsv3_numerics import Recipe, accumulators, format_info, formats
from dsv3_numerics.cli.console import LogLines
from dsv3_numerics.model import PRESETS
from dsv3_numerics.schemes import NAMED, Scheme

GOLDEN = str(Path(__file__).parents[1] / "golden" / "tiny_v3_fp8")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def told(*args: str, capsys: pytest.CaptureFixture[str]) -> object:
    """JSON that a command prints; nothing else."""
    code, out, err = call(*args, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_lists_hold_everything_that_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = {
        verb: [row["name"] for row in told(verb, capsys=capsys)]  # type: ignore[attr-defined]
        for verb in ("formats", "accumulators", "schemes", "recipes", "experiment")
    }
    assert names["formats"] == [info.name for info in formats()]
    assert names["accumulators"] == [info.name for info in accumulators()]
    assert set(names["schemes"]) >= set(NAMED)
    assert names["recipes"] == list(PRESETS)
    for verb, found in names.items():
        code, out, _ = call(verb, capsys=capsys)
        assert code == 0
        assert all(name in out for name in found)


def test_a_format_in_json_has_all_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    found = told("formats", "e2m1", capsys=capsys)
    assert isinstance(found, dict)
    assert found["values"] == [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert found["max"] == format_info("float4_e2m1fn").max
    values = told("formats", "e4m3", capsys=capsys)["values"]  # type: ignore[index]
    assert values.count(None) == 2, "NaN is null"


def test_bits_of_schemes_are_of_the_shape_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for row in told("schemes", "256x512", capsys=capsys):  # type: ignore[attr-defined]
        assert row["bits"] == Scheme.parse(row["name"]).bits(256, 512) / (256 * 512)
    code, _, err = call("schemes", "256", capsys=capsys)
    assert (code, "4096x7168" in err) == (2, True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_in_json_is_a_recipe_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call("recipes", name, "--json", capsys=capsys)
    Path("mine.json").write_text(out)
    assert Recipe.read("mine.json") == Recipe.preset(name)


def test_run_and_make_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    made = told("make", "tiny", capsys=capsys)
    assert isinstance(made, dict)
    assert made["written"] > 0
    args = ("run", "tiny", "--ids", "3,1,4", "--trace", "final_norm", "--max-new-tokens", "2", "--eos", "-1")
    found = told(*args, capsys=capsys)
    assert isinstance(found, dict)
    assert found["ids"] == [3, 1, 4]
    assert len(found["next"]) == 5
    assert found["next"][0]["id"] == found["tokens"][0], "greedy"
    assert found["traces"]["final_norm"]["shape"][-2:] == [3, 128]


def test_run_does_not_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.npz").write_bytes(b"mine")
    args = ("run", GOLDEN, "--ids", "3", "--out", "x.npz")
    code, _, err = call(*args, capsys=capsys)
    assert (code, "--overwrite" in err) == (1, True)
    assert Path("x.npz").read_bytes() == b"mine"
    assert call(*args, "--overwrite", capsys=capsys)[0] == 0
    assert Path("x.npz").read_bytes() != b"mine"


@pytest.mark.parametrize("seconds", [3.0, 100.0, 7200.0])
def test_a_log_gets_a_line_every_30_seconds_or_5_percent(
    seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    lines = LogLines(lambda: now)
    times: list[tuple[float, float]] = []
    steps = 1000
    for i in range(steps + 1):
        now = seconds * i / steps
        lines.progress("layer\x1b 3", i, steps)
        if capsys.readouterr().err:
            times.append((now, i / steps))
    if seconds <= LogLines.SHORT:
        assert times == []
        return
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times)]
    slack = seconds / steps
    assert all(t <= 30 + slack and s <= 0.05 + 1 / steps for t, s in gaps)
    assert all(t >= 30 or s >= 0.05 for t, s in gaps)


def test_a_line_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = LogLines(lambda: now)
    now = 90.0
    lines.progress("layer\x1b 3", 1, 4)
    assert capsys.readouterr().err == " 25%  layer\\x1b 3  (1 min 30 s, 4 min 30 s left)\n"


STOPPED = """
from dsv3_numerics import cli
from dsv3_numerics.model import synthetic
write = synthetic._write
def pacing(*args):
    for count in write(*args):
        done()
        yield count
synthetic._write = pacing
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("by", STOPS)
def test_make_says_how_to_go_on(tmp_path: Path, by: signal.Signals) -> None:
    code, out, err = stopped(STOPPED, "make", "tiny", after=2, by=by, folder=tmp_path)
    assert (code, out) == (STOPS[by][0], "")
    assert err.splitlines()[-1].endswith("; the same command goes on where it was")
    assert "Traceback" not in err


def in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does, with its redirections."""
    command = f"{shlex.quote(sys.executable)} -m dsv3_numerics.cli {line}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(os.name == "nt", reason="a shell's redirections")
@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("recipes >&-", 1, "dsv3-numerics: standard output is closed"),
        ("schemes 256 2>&-", 2, ""),
        ("formats >/dev/full", 1, "No space left on device"),
        ("recipes --json >/dev/full", 1, "No space left on device"),
    ],
)
def test_standard_streams_that_take_nothing(line: str, code: int, words: str) -> None:
    if "full" in line and not Path("/dev/full").exists():
        pytest.skip("no device that is full")
    done = in_shell(line)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.splitlines()) <= 1
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_run_checks_its_output_before_the_work(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def working(*args: object, **settings: object) -> None:
        raise AssertionError("work before the output was looked at")

    monkeypatch.setattr("dsv3_numerics.model.Model.from_checkpoint", working)
    Path("file").write_text("mine")
    Path("folder.npz").mkdir()
    for out, words in (
        (f"nowhere/{name}", "no such folder"),
        (f"file/{name}", "no such folder"),
        ("folder.npz", "not a file"),
    ):
        code, _, err = call("run", GOLDEN, "--ids", "3", "--out", out, "--overwrite", capsys=capsys)
        assert (code, words in err) == (1, True), err
    full = shutil.disk_usage(".")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    code, _, err = call("run", GOLDEN, "--ids", "3", "--out", name, capsys=capsys)
    assert (code, "0 bytes are free" in err) == (1, True), err
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder.npz"]


def test_messages_are_no_longer_than_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    long = "y" * 100_000
    for args in (["formats", long], ["recipes", long], ["run", GOLDEN, "--ids", "1", "--recipe", long]):
        code, _, err = call(*args, capsys=capsys)
        assert code in (1, 2)
        assert len(err) < 5000


def test_codesign_checks_its_output_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def working(*args: object, **settings: object) -> None:
        raise AssertionError("work before the output was looked at")

    monkeypatch.setattr("dsv3_numerics.codesign.kv", working)
    Path("file").write_text("mine")
    code, _, err = call("codesign", "kv", "deepseek_v3", "--out", "file/below", capsys=capsys)
    assert (code, "--out: cannot write into file/below: Not a directory" in err) == (1, True), err
    full = shutil.disk_usage(".")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    code, _, err = call("codesign", "kv", "deepseek_v3", "--out", "new", capsys=capsys)
    assert (code, "0 bytes are free" in err) == (1, True), err
    assert [path.name for path in Path().iterdir()] == ["file"]
