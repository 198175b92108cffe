"""Files of a release know where the project is hosted, when they are told, and nothing else."""

from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from release import absolute, pythons, repack, stamp

ROOT = Path(__file__).parents[2]
HOST = "https://host.example/owner/name"


def test_links_of_the_readme_become_absolute() -> None:
    text = absolute((ROOT / "README.md").read_text(), HOST, "v1.2.3")
    assert (
        f"![How much precision do bits buy? SQNR over bits for fifteen schemes]({HOST}/raw/v1.2.3/docs/"
        in text
    )
    assert f"[glossary]({HOST}/blob/v1.2.3/docs/glossary.md)" in text
    assert "](docs/" not in text


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("[a](b.md#c)", f"[a]({HOST}/blob/t/b.md#c)"),
        ("[a](#c)", "[a](#c)"),
        ("[a](https://x.example/b)", "[a](https://x.example/b)"),
        ("![a](b.png) [c](d/)", f"![a]({HOST}/raw/t/b.png) [c]({HOST}/blob/t/d/)"),
    ],
)
def test_each_kind_of_link(given: str, made: str) -> None:
    assert absolute(given, HOST, "t") == made


def test_the_metadata_get_links(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    stamp(tmp_path, HOST, "v1.2.3")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Source"] == HOST
    assert all(address.startswith(HOST) for address in project["urls"].values())
    assert project["scripts"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    with pytest.raises(SystemExit, match=r"no place for \[project.urls\]"):
        stamp(tmp_path, HOST, "v1.2.3")


@pytest.mark.parametrize("address", ["http://host.example/a", "host/a", 'https://h/"x', "https://h/a b"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--repository: found"):
        stamp(tmp_path, address, "v1")


def test_a_wheel_is_packed_anew_with_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("zopfli", reason="only a release packs anew")
    wheel = tmp_path / "a-1-cp311-abi3-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("README.md", "pyproject.toml"):
            archive.write(ROOT / name, name)
    before = wheel.read_bytes()
    repack(wheel)
    assert len(wheel.read_bytes()) < len(before)
    with zipfile.ZipFile(wheel) as new, zipfile.ZipFile(io.BytesIO(before)) as old:
        assert [(i.filename, i.CRC, i.external_attr, i.date_time) for i in new.infolist()] == [
            (i.filename, i.CRC, i.external_attr, i.date_time) for i in old.infolist()
        ]
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]


def test_this_python_is_found() -> None:
    import sys

    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in pythons()


def test_the_version_is_the_same_everywhere() -> None:
    """Cargo.toml has it; lock, citation and changelog follow."""
    import re

    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    assert [p["version"] for p in locked if p["name"] == "dsv3_numerics"] == [version]
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]
    sections = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    dated = [name for name, date in sections[1:] if re.fullmatch(r" - \d{4}-\d\d-\d\d", date)]
    assert dated == [name for name, _ in sections[1:]]
    assert dated[:1] in ([version], [])
