"""Ready sets: small, whole, and usable by a process that has NumPy and nothing of this package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsv3_numerics import compare, golden

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
