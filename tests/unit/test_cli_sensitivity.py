"""The verb ``sensitivity``: the demo, a run and its files, an interruption taken up again."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

import commands
from dsv3_numerics.model import Recipe

call = partial(commands.call, "sensitivity")

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
QUICK = ("--only", "gate", "--perturbations", "1", "--ids", "3,1,4,1,5")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every test in a folder of its own; plots take longest, and are drawn in one test alone."""
    monkeypatch.chdir(tmp_path)
    if request.node.name != "test_a_run_of_a_checkpoint":
        monkeypatch.setattr("dsv3_numerics.sensitivity.files.PLOTS", {})


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("--help", capsys=capsys)
    assert code == 0
    assert "Examples:" in out
    assert "--demo" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_demo_writes_nothing_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call("--demo", "--tokens", "5", "--only", "gate", "--perturbations", "1", capsys=capsys)
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "RANDOM" not in words
    assert "gate" in words
    assert list(tmp_path.iterdir()) == []
    code, out, _ = call("--demo", *QUICK, "--out", "seen", capsys=capsys)
    assert code == 0
    assert "RANDOM TOKENS" not in out
    assert (tmp_path / "seen" / "report.md").is_file()


def test_a_run_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recipe(gate="bf16", cache="bf16").save("mine.json")
    code, out, err = call(
        str(GOLDEN), "--recipe", "mine.json", "--ids", "3,1,4,1,5", "--tokens", "3", "--threads", "1",
        "--absorbed", "--perturbations", "1", capsys=capsys,
    )  # fmt: skip
    assert (code, err) == (0, "")
    folder = tmp_path / "sensitivity-tiny_v3_fp8"
    assert f"Report: {folder.name}/report.md" in out
    content = json.loads((folder / "results.json").read_text())
    assert content["settings"]["ids"] == [[3, 1, 4]]
    assert (content["settings"]["source"], content["settings"]["absorbed"]) == ("tiny_v3_fp8", True)
    assert (content["partial"], content["notes"]) == (None, [])
    assert {row["choice"] for row in content["rows"]} == {"", "cache", "gate"}
    assert sorted(p.name for p in folder.iterdir()) == [
        "costs.png", "experts.png", "layers.png", "operations.png", "parts", "report.html", "report.md",
        "results.csv", "results.json", "tokens.png",
    ]  # fmt: skip


def test_random_ids_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (
        str(GOLDEN), "--recipe", "bf16", "--only", "gate", "--perturbations", "0", "--tokens", "4",
        "--out", "o",
    )  # fmt: skip
    code, out, _ = call(*args, "--seed", "1", capsys=capsys)
    assert code == 0
    assert out.startswith("RANDOM TOKENS")
    report = (tmp_path / "o" / "report.md").read_text()
    assert report.index("RANDOM TOKENS") < report.index("## ")
    code, _, err = call(*args, "--seed", "2", capsys=capsys)
    assert code == 1
    assert "o: holds a sensitivity analysis with other settings: ids" in err
    assert "--restart" in err
    assert len(err.splitlines()) == 1
    code, out, _ = call(*args, "--seed", "2", "--restart", capsys=capsys)
    assert code == 0
    code, out, _ = call(*args, "--seed", "2", capsys=capsys)
    assert code == 0
    assert "parts are done already, 0 to do" in out


def test_a_recipe_that_the_checkpoint_does_not_allow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message lists what is possible; nothing is written."""
    code, out, err = call(str(GOLDEN), "--recipe", "deepseek_v31", "--ids", "1", capsys=capsys)
    assert (code, out) == (1, "")
    assert "no powers of two" in err
    assert "expected weights one of none, " in err
    assert list(tmp_path.iterdir()) == []


PACED = """
from dsv3_numerics import cli
from dsv3_numerics.sensitivity import files, running
files.PLOTS.clear()
save = running.Kept.save
def pacing(kept, variant, part, content):
    save(kept, variant, part, content)
    done(part, variant.name)
running.Kept.save = pacing
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("by", commands.STOPS)
def test_an_interruption_is_taken_up_by_the_same_command(
    tmp_path: Path, by: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--demo", *QUICK, "--out", "out"]
    code, out, err = commands.stopped(PACED, "sensitivity", *args, after=3, by=by, folder=tmp_path)
    wanted, words = commands.STOPS[by]
    assert code == wanted, err
    assert "Traceback" not in err
    assert f"Partial: {words}" in out
    assert "The same command goes on from here." in out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["partial"] == words
    kept = len(list((tmp_path / "out" / "parts").glob("*-*.json")))
    assert 3 <= kept < 12
    code, out, _ = call(*args, capsys=capsys)
    assert code == 0
    assert f"{kept} parts are done already" in out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["partial"] is None


def test_results_of_another_kind_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    code, _, err = call("--demo", *QUICK, "--out", "out", capsys=capsys)
    assert (code, "--restart" in err) == (1, True)
    assert (tmp_path / "out" / "results.json").read_text() == "{}"


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call("--demo", *QUICK, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert [cost["choice"] for cost in content["costs"]] == ["gate"]
    assert content["findings"]
