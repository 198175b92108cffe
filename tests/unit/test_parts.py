"""Work in parts: the files and figures of one run, whatever the order; refusals say what is missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import call
from dsv3_numerics.checkpoint import convert, save
from dsv3_numerics.checkpoint.conversion.run import merge_conversion
from dsv3_numerics.model import Config, random_checkpoint
from dsv3_numerics.tasks.journal import Journal, journal_name, journals, open_journal
from dsv3_numerics.tasks.plan import Part, grouped
from dsv3_numerics.tasks.task import Task

FP8 = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
NOT_FIGURES = ("seconds",)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def figures(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Results of a study, but for times; and its table."""
    found = json.loads((folder / "results.json").read_text())
    return {k: v for k, v in found.items() if k not in NOT_FIGURES}, (folder / "results.csv").read_bytes()


# --- The plan -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(0, 60), st.integers(1, 9))
def test_parts_share_all_tasks_and_no_task_twice(costs: list[int], most: int, count: int) -> None:
    groups = grouped(costs, most)
    assert [i for first, last in groups for i in range(first, last)] == list(range(len(costs)))
    assert all(sum(costs[a:b]) <= most or b == a + 1 or not any(costs[a + 1 : b]) for a, b in groups)
    tasks = [Task(i, str(i), 1.0) for i in range(len(groups))]
    shared = [task for index in range(1, count + 1) for task in Part(index, count).of(tasks)]
    assert sorted(shared) == tasks


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/4", "", "1/9999999"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="part: found"):
        Part.parse(text)


# --- Conversions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["bf16", "fp8-row", "fp8-ue8m0"])
def test_parts_of_a_conversion_make_the_files_of_one_run(tmp_path: Path, to: str) -> None:
    options: dict[str, Any] = {"to": to}
    whole = convert(FP8, tmp_path / "whole", **options)
    done = [convert(FP8, tmp_path / "parts", part=f"{i}/3", **options) for i in (3, 1, 2)]
    assert [report.files for report in done] == [0, 1, 1]
    assert [report.part for report in done] == ["3/3", "1/3", "2/3"]
    merged = merge_conversion(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (merged.errors, merged.notes, merged.tensors) == (whole.errors, whole.notes, whole.tensors)
    assert (merged.files, merged.resumed) == (0, 2)
    again = convert(FP8, tmp_path / "parts", part="1/3", **options)
    assert (again.files, again.resumed) == (0, 2), "all is done"


def test_errors_do_not_depend_on_jobs(tmp_path: Path) -> None:
    reports = [convert(FP8, tmp_path / str(jobs), to="fp8-row", threads=jobs) for jobs in (1, 3)]
    assert reports[0].errors == reports[1].errors
    assert reports[0].errors


def test_a_merge_says_which_tasks_are_missing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    convert(FP8, target, to="bf16", part="1/2")
    before = contents(target)
    with pytest.raises(ValueError, match=r"1 of 2 tasks are not done \(model-00002-of-00002.safetensors\)"):
        merge_conversion(target)
    left = {name: data for name, data in contents(target).items() if name != journal_name("convert")}
    assert left == before, "nothing is changed"
    with pytest.raises(FileExistsError, match="unfinished"):
        convert(FP8, target, to="bf16")
    with pytest.raises(ValueError, match="begun with another to"):
        convert(FP8, target, to="f16", part="2/2")
    report = convert(FP8, target, to="bf16", resume=True)
    assert (report.files, report.resumed) == (1, 1)
    convert(FP8, tmp_path / "whole", to="bf16")
    assert contents(target) == contents(tmp_path / "whole")


def test_nobody_ends_a_conversion_whose_parts_are_at_work(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    target = tmp_path / "out"
    convert(FP8, target, to="bf16", part="1/2")
    head = json.loads((target / journal_name("convert", Part(1, 2))).read_text().splitlines()[0])["head"]
    with open_journal(target, "convert", head, resume=True, part=Part(2, 2)):
        for end in (lambda: merge_conversion(target), lambda: convert(FP8, target, to="bf16", resume=True)):
            with pytest.raises(ValueError, match=r"at work in it \(.*2-of-2"):
                end()
        report = convert(FP8, target, to="bf16", part="1/2")
        assert report.resumed == 1, "other parts may be"


def test_a_file_that_was_lost_is_written_again(tmp_path: Path) -> None:
    target = tmp_path / "out"
    convert(FP8, target, to="bf16", part="1/2")
    (target / "model-00001-of-00002.safetensors").unlink()
    assert convert(FP8, target, to="bf16", part="1/2").files == 1


def test_one_file_is_not_split(tmp_path: Path) -> None:
    save(tmp_path / "w.safetensors", {"w": np.ones((4, 4), np.float32)})
    with pytest.raises(ValueError, match="part: found a source of one file"):
        convert(tmp_path / "w.safetensors", tmp_path / "o.safetensors", to="bf16", part="1/2")


# --- Studies ------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Tensors of many sizes, one that is not finite, one that is of integers."""
    rng = np.random.default_rng(0)
    arrays = {f"t{i:02}": rng.normal(size=(int(rng.integers(1, 40)), 64)) for i in range(20)}
    arrays["t07"][0, 0] = np.nan
    np.savez(tmp_path / "w.npz", **arrays, ids=np.arange(3))
    return tmp_path / "w.npz"


def test_parts_of_a_study_make_the_figures_of_one_run(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    args = ["study", "w.npz", "-s", "mxfp4", "-s", "int8:row"]
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 0
    for i in (2, 1, 3):
        code, out, _ = call(*args, "--out", "parts", "--part", f"{i}/3", capsys=capsys)
        assert (code, f"Part {i}/3 is done" in out, "merge parts" in out) == (0, True, True)
        assert not list(Path("parts").glob("[!.]*")), "no results before the merge"
        if i != 3:
            code, _, err = call("merge", "parts", capsys=capsys)
            assert (code, "tasks are not done" in err) == (1, True)
    assert call("merge", "parts", capsys=capsys)[0] == 0
    assert figures(Path("parts")) == figures(Path("whole"))
    assert sorted(os.listdir("parts")) == sorted(os.listdir("whole"))
    code, out, _ = call(*args, "--out", "parts", "--part", "1/3", capsys=capsys)
    assert (code, out.startswith("All is done")) == (0, True)
    code, _, err = call("merge", "parts", capsys=capsys)
    assert (code, "no parts of a run" in err) == (1, True)


def test_parts_of_a_comparison_with_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FP8, "fp8")
    convert("fp8", "bf16", to="bf16")
    args = ["study", "fp8", "--against", "bf16"]
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 0
    for i in (1, 2):
        assert call(*args, "--out", "parts", "--part", f"{i}/2", capsys=capsys)[0] == 0
    assert call("merge", "parts", capsys=capsys)[0] == 0
    assert figures(Path("parts")) == figures(Path("whole"))


# --- Random checkpoints, sensitivity analyses ---------------------------------------------------------------


def test_parts_of_a_random_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, small = Config.preset("tiny"), {"shard_bytes": 200_000}
    whole = random_checkpoint(tmp_path / "whole", config, **small)
    parts = tmp_path / "parts"
    for i in (2, 3):
        assert random_checkpoint(parts, config, part=f"{i}/3", **small).part == f"{i}/3"
    code, _, err = call("merge", str(parts), capsys=capsys)
    assert (code, "tasks are not done" in err) == (1, True)
    with pytest.raises(FileExistsError, match="other settings"):
        random_checkpoint(parts, config, part="1/3", seed=1, **small)
    random_checkpoint(parts, config, part="1/3", **small)
    code, out, _ = call("merge", str(parts), "--json", capsys=capsys)
    assert (code, json.loads(out)["files"]) == (0, whole.files)
    assert contents(parts) == contents(tmp_path / "whole")


def test_parts_of_a_sensitivity_analysis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random_checkpoint("tiny", Config.preset("tiny"))
    args = [
        "sensitivity",
        "tiny",
        "--ids",
        "3,1,4",
        "--only",
        "gate",
        "--only",
        "cache",
        "--perturbations",
        "1",
    ]
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 0
    for i in (3, 1, 2):
        code, out, _ = call(*args, "--out", "parts", "--part", f"{i}/3", capsys=capsys)
        assert (code, f"Part {i}/3 is done" in out) == (0, True)
        assert not Path("parts/results.json").exists()
        if i == 1:
            code, _, err = call("merge", "parts", capsys=capsys)
            assert (code, "tasks are not done" in err) == (1, True)
    assert call("merge", "parts", capsys=capsys)[0] == 0
    assert figures(Path("parts")) == figures(Path("whole"))
    assert contents(Path("parts/parts")) == contents(Path("whole/parts"))


def compared(folder: Path) -> dict[str, bytes]:
    """Files of a comparison."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_parts_of_a_comparison_have_the_result_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = {f"t{i:02}": rng.normal(size=(8, 64)).astype(np.float32) for i in range(12)}
    save("a.safetensors", x | {"extra": np.zeros(3, np.float32), "nan": np.float32([np.nan, 1])})
    x["t03"][2, 5] += 1
    x["t07"][:, 3] = -0.0
    save("b.safetensors", x | {"nan": np.float32([1, np.inf])})
    args = ["compare", "a.safetensors", "b.safetensors"]
    assert call(*args, "--out", "whole", capsys=capsys)[0] == 1
    for i in (3, 1, 2):
        code, out, _ = call(*args, "--out", "parts", "--part", f"{i}/3", capsys=capsys)
        assert (code, f"Part {i}/3 is done" in out) == (0, True)
        if i == 1:
            code, _, err = call("merge", "parts", capsys=capsys)
            assert (code, "tasks are not done" in err) == (2, True)
    code, out, _ = call("merge", "parts", capsys=capsys)
    assert (code, "3 differ" in out) == (1, True)
    assert compared(Path("parts")) == compared(Path("whole"))
    code, _, err = call(
        "compare", "b.safetensors", "a.safetensors", "--out", "new", "--part", "1/2", capsys=capsys
    )
    assert code == 0
    code, _, err = call(*args, "--out", "new", "--part", "2/2", capsys=capsys)
    assert (code, "begun with another a" in err) == (2, True)


@pytest.mark.parametrize(
    "args",
    [
        ["sensitivity", "--demo", "--part", "1/2"],
        ["golden", "cast", "--part", "1/2"],
        ["golden", "suite", "--for", "deepep", "--part", "1/2", "--overwrite"],
        ["compare", "w.npz", "w.npz", "--part", "1/2"],
        ["compare", "w.npz", "w.npz", "--part", "1/2", "--out", "x", "--model"],
        ["study", "--demo", "--part", "1/2"],
        ["study", "--activations", "--demo", "--part", "1/2"],
        ["study", "w.npz", "--part", "1/2", "--overwrite"],
        ["study", "w.npz", "--part", "3/2"],
        ["study", "w.npz", "--part", "1/2", "--dask", "local:2"],
        ["convert", "a", "b", "--to", "bf16", "--part", "x"],
    ],
)
def test_what_is_not_split_is_refused(
    args: list[str], weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    code, _, err = call(*args, capsys=capsys)
    assert (code, "Error" in err) == (2, True)
    assert sorted(os.listdir()) == ["w.npz"]


# --- Journals -----------------------------------------------------------------------------------------------


def test_a_journal_keeps_what_is_done(tmp_path: Path) -> None:
    head, task = {"of": "this"}, Task(0, "one", 1.0)
    with open_journal(tmp_path, "study", head, resume=False, part=Part(1, 2)) as journal:
        journal.note(task, {"found": 0.1})
    path = tmp_path / journal_name("study", Part(1, 2))
    path.write_bytes(path.read_bytes() + b'{"task": "tw')  # a line cut short
    with open_journal(tmp_path, "study", head, resume=True, part=Part(2, 2)) as other:
        assert other.done == {"one": {"found": 0.1}}
    assert path.read_bytes().endswith(b'"tw'), "of others nothing is changed"
    with open_journal(tmp_path, "study", head, resume=True, part=Part(1, 2)) as journal:
        journal.note(Task(1, "two", 1.0), {})
        assert set(journal.done) == {"one", "two"}
    with (
        pytest.raises(ValueError, match="another of: 'this', not 'that'"),
        open_journal(tmp_path, "study", {"of": "that"}, resume=True, part=Part(2, 2)),
    ):
        pass
    assert journals(tmp_path, "convert") == []
    assert isinstance(journal, Journal)
