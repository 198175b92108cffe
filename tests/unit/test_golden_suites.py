"""Ready sets: small, whole, and usable by a process that has NumPy and nothing of this package.

In parts they are the files of one run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import call
from dsv3_numerics import compare, golden
from dsv3_numerics.golden.suites import VERB, SuiteOf, merge_suite
from dsv3_numerics.tasks.journal import journals, open_journal
from dsv3_numerics.tasks.plan import Part

WITHOUT = "import sys\nfor name in ('dsv3_numerics', 'ml_dtypes', 'safetensors'): sys.modules[name] = None\n"


@pytest.mark.parametrize("name", golden.SUITES)
def test_suites_are_small_and_whole(name: str, tmp_path: Path) -> None:
    folder = golden.write_suite(name, tmp_path / name)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 20_000_000
    found = golden.verify(folder)
    assert found.tensors > 10
    assert not found.unlisted
    assert compare.compare(folder, folder).equal
    run_readme(folder)
    resumed = {path: path.stat().st_mtime_ns for path in folder.rglob("tensors.*")}
    golden.write_suite(name, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("tensors.*")} == resumed


def run_readme(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert code.count("assert") > 3
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT + code], cwd=folder, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("form", ["npz", "bin"])
def test_other_forms(form: str, tmp_path: Path) -> None:
    """The README reads the form that it stands beside; an interrupted set goes on."""
    part = tmp_path / "set" / "dispatch"
    golden.write("quantize", part, form=form, rule="deepep")
    before = (part / "manifest.json").stat().st_mtime_ns
    folder = golden.write_suite("deepep", tmp_path / "set", form=form)
    assert (part / "manifest.json").stat().st_mtime_ns == before
    run_readme(folder)
    with pytest.raises(FileExistsError, match="overwrite"):
        golden.write_suite("deepep", folder, form="safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("")
    with pytest.raises(FileExistsError, match="notes"):
        golden.write_suite("deepep", tmp_path / "other")


# --- In parts -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of one run."""
    return contents(golden.write_suite("deepep", tmp_path_factory.mktemp("suite") / "whole"))


@pytest.mark.parametrize("count", [1, 2, len(golden.SUITES["deepep"]) + 2])
def test_parts_make_the_files_of_one_run(count: int, tmp_path: Path, whole: dict[str, bytes]) -> None:
    place = tmp_path / "vectors"
    for index in range(count, 0, -1):
        if index < count:
            with pytest.raises(ValueError, match=r"merge: \d+ of 6 tasks are not done \(.*dispatch"):
                merge_suite(place)
        golden.write_suite("deepep", place, part=f"{index}/{count}")
        assert not (place / "manifest.json").exists()
    assert merge_suite(place) == place
    assert contents(place) == whole
    golden.write_suite("deepep", place, part=f"1/{count}")  # late: all is there
    assert contents(place) == whole


# A process that is gone where it is about to write a folder's manifest, the n-th.
GONE = """
import os, sys
from dsv3_numerics import cli
from dsv3_numerics.golden import writing
write, left = writing.write_manifest, int(sys.argv.pop(1))
def gone(folder, about):
    global left
    left -= 1
    if left == 0:
        os._exit(77)
    return write(folder, about)
writing.write_manifest = gone
cli.main(sys.argv[1:])
"""


def test_a_part_that_is_gone_is_run_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    place = tmp_path / "vectors"
    words = ["golden", "suite", "--for", "deepep", "--out", str(place), "--part", "1/2"]
    gone = subprocess.run([sys.executable, "-c", GONE, "2", *words], capture_output=True, text=True)
    assert gone.returncode == 77, gone.stderr
    assert [len(list(place.glob(f"*/{name}"))) for name in ("tensors.*", "manifest.json")] == [2, 1]
    golden.write_suite("deepep", place, part="2/2")
    with pytest.raises(ValueError, match=r"2 of 6 tasks are not done \(logfmt10, expert\)"):
        merge_suite(place)
    kept = (place / "dispatch" / "manifest.json").stat().st_mtime_ns
    golden.write_suite("deepep", place, part="1/2")
    assert (place / "dispatch" / "manifest.json").stat().st_mtime_ns == kept
    merge_suite(place)
    assert contents(place) == whole


def test_what_a_killed_writer_left_is_no_stranger(tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / ".README.md.0123456789ab.partial").write_bytes(b"half")
    golden.write_suite("deepep", tmp_path)
    assert {name: text for name, text in contents(tmp_path).items() if "partial" not in name} == whole


def test_one_process_ends_what_parts_began(tmp_path: Path, whole: dict[str, bytes]) -> None:
    place = tmp_path / "vectors"
    golden.write_suite("deepep", place, part="3/4")
    golden.write_suite("deepep", place)
    assert contents(place) == whole
    golden.write_suite("vllm", tmp_path / "other", part="8/20")
    golden.write_suite("deepep", tmp_path / "other", overwrite=True)
    assert {name: text for name, text in contents(tmp_path / "other").items() if name in whole} == whole
    assert not journals(tmp_path / "other")


def test_parts_of_other_sets_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "vectors"
    golden.write_suite("deepep", place, part="5/6")
    before = contents(place)
    with pytest.raises(ValueError, match="another suite: 'deepep', not 'vllm'"):
        golden.write_suite("vllm", place, part="2/6")
    with pytest.raises(ValueError, match="another seed: 0, not 1"):
        golden.write_suite("deepep", place, part="2/6", seed=1)
    with pytest.raises(ValueError, match="another form: 'safetensors', not 'npz'"):
        golden.write_suite("deepep", place, part="2/6", form="npz")
    with pytest.raises(ValueError, match="overwrite: found with part"):
        golden.write_suite("deepep", place, part="2/6", overwrite=True)
    if sys.platform != "win32":  # which has no locks
        head = SuiteOf("", "deepep", "safetensors", 0).head()
        with (
            open_journal(place, VERB, head, resume=True, part=Part(5, 6)),
            pytest.raises(ValueError, match="another process is at work"),
        ):
            merge_suite(place)
    assert contents(place) == before
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "notes").write_text("")
    with pytest.raises(FileExistsError, match="holds notes"):
        golden.write_suite("deepep", strange, part="1/2")
    golden.write("cast", tmp_path / "cast", cases=["ties"])
    with pytest.raises(FileExistsError, match=r"other golden vectors \(cast\)"):
        golden.write_suite("deepep", tmp_path / "cast", part="1/2")
    assert not journals(strange) + journals(tmp_path / "cast")


def test_parts_of_another_version_are_refused(tmp_path: Path) -> None:
    of = SuiteOf(str(tmp_path), "deepep", "safetensors", 0, version="0.0.1")
    with open_journal(tmp_path, VERB, of.head(), resume=True, part=Part(1, 2)):
        pass
    with pytest.raises(ValueError, match=r"another version: '0\.0\.1'"):
        golden.write_suite("deepep", tmp_path, part="2/2")
    with pytest.raises(ValueError, match=r"version: found dsv3_numerics .*, expected 0\.0\.1"):
        merge_suite(tmp_path)
    with pytest.raises(ValueError, match="version: found"), of.open():  # in a worker elsewhere
        pass


def test_parts_on_the_command_line(
    tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "vectors")
    words = ["golden", "suite", "--for", "deepep", "--out", place]
    code, out, _ = call(*words, "--part", "1/2", capsys=capsys)
    assert (code, f"merge {place}" in out) == (0, True)
    code, _, err = call("merge", place, capsys=capsys)
    assert (code, "dispatch_ue8m0, gate, expert_logfmt10" in err) == (1, True)
    code, out, _ = call(*words, "--part", "2/2", "--json", capsys=capsys)
    assert (code, json.loads(out)) == (0, {"suite": "deepep", "part": "2/2", "folder": place})
    code, out, _ = call("merge", place, "--json", capsys=capsys)
    assert (code, len(json.loads(out)["parts"])) == (0, 6)
    assert contents(Path(place)) == whole
    code, out, _ = call(*words, "--part", "2/2", capsys=capsys)
    assert (code, out) == (0, f"wrote {place}\n")


@pytest.mark.parametrize("option", ["--part=1/2", "--dask=local:2"])
@pytest.mark.parametrize("operation", [*golden.OPERATIONS, "list", "verify"])
def test_single_operations_are_not_split(
    operation: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call("golden", operation, option, capsys=capsys)
    assert code == 2
    assert re.search(f"golden {operation} is not split: it (takes seconds|is one pass through a model)", err)
