"""Every verb at what is no file, at things in the way within a model, and at a full disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from commands import call
from dsv3_numerics.model import demo_checkpoint
from samples import make_socket

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="pipes, sockets and links of POSIX"),
    pytest.mark.usefixtures("no_hanging"),
]
LINE = 3000  # characters that a message may have


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "empty folder": os.mkdir,
    "empty file": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
}
NAMES = {"long": "x" * 5000, "zero": "a\0b", "no text": "a\udc80b", "escape": "a\nb\x1b[31m"}

READS = {
    "inspect": "inspect {}",
    "run": "run {} --ids 1,2",
    "convert": "convert {} out --to bf16",
    "study": "study {} -s mxfp8 --out out",
    "against": "study {} --against {} --out out",
    "activations": "study --activations {} --ids 1 --out out",
    "sensitivity": "sensitivity {} --ids 1 --out out",
    "compare": "compare {} {}",
    "make": "make out --config {}",
    "golden from": "golden quantize --from {} --tensor x --out out",
    "golden verify": "golden verify {}",
    "golden model": "golden forward --set model={} --out out",
    "merge": "merge {}",
    "recipe": "run --demo --text a --max-new-tokens 1 --recipe {}",
    "ids": "run --demo --ids @{}",
    "recipe to analyse": "sensitivity --demo --recipe {}",
    "codesign": "codesign kv {}",
    "load": "codesign eplb deepseek_v3 --load {}",
    "hardware": "codesign ep deepseek_v3 --hardware {}",
    "errors": "codesign tradeoff --errors {}",
    "drafts": "codesign mtp --from {}",
    "trace": "codesign routing deepseek_v3 --trace {}",
}


def ensure_refused(words: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a verb at a path; exit code, a line that says something, and no file made."""
    before = sorted(os.listdir())
    code, out, err = call(*(word.format(path) for word in words.split()), capsys=capsys)
    told = out + err
    assert code in (1, 2), f"{words}: exit code {code}"
    assert told.strip(), f"{words}: nothing was said"
    assert "Traceback" not in told
    assert "\x1b" not in err
    assert max(map(len, told.splitlines())) < LINE
    left = sorted(os.listdir("out")) if os.path.isdir("out") else []
    assert sorted(os.listdir()) in (before, sorted([*before, "out"])), words
    assert left in ([], ["parts"]), words
    shutil.rmtree("out", ignore_errors=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_at_what_is_no_file(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[kind](Path("odd"))
    for words in READS.values():
        if not (words == READS["make"] and kind == "nothing"):
            ensure_refused(words, "odd", capsys)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_verb_at_a_name_that_is_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in READS.values():
        ensure_refused(words, name, capsys)


@pytest.mark.parametrize("kind", ["pipe", "loop", "empty folder"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_every_verb_at_a_model_with_something_in_the_way(
    kind: str,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo_checkpoint(), "odd")
    Path("odd", name).unlink(missing_ok=True)
    KINDS[kind](Path("odd", name))
    models = ("run", "activations", "sensitivity", "golden model")
    for verb in (*models, "convert", "inspect") if name != "config.json" else models:
        ensure_refused(READS[verb], "odd", capsys)


WRITES = {
    "convert": "convert {model} out --to bf16",
    "study": "study w.npz -s mxfp8 --out out",
    "activations": "study --activations --demo --tokens 4 --out out",
    "sensitivity": "sensitivity {model} --ids 1 --out out",
    "make": "make out",
    "golden": "golden quantize --out out",
    "suite": "golden suite --for deepep --out out",
    "run": "run --demo --text a --max-new-tokens 1 --out x.npz",
    "compare": "compare w.npz w.npz --out out",
    "page": "compare w.npz w.npz --html x.html",
    "codesign": "codesign roofline deepseek_v3 --out out",
    "experiment": "experiment accumulation --quick --out out",
}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something to read."""
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", x=np.ones((4, 64), np.float32))
    return tmp_path


@pytest.mark.parametrize("verb", WRITES)
def test_every_output_is_checked_for_space_before_the_work(
    verb: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    words = [word.format(model=demo_checkpoint()) for word in WRITES[verb].split()]
    code, out, err = call(*words, capsys=capsys)
    assert (code, out) == (2 if "compare" in words else 1, ""), err
    assert "1.00 kB are free" in err
    assert [path for path in place.rglob("*") if path.is_file()] == [place / "w.npz"]


@pytest.mark.parametrize("verb", WRITES)
def test_every_output_under_a_file_is_refused_before_the_work(
    verb: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(model=demo_checkpoint()) for word in WRITES[verb].split()]
    words[-1 if words[-2].startswith("--") else words.index("out")] = "w.npz/below.npz"
    if verb == "convert":
        words = [word.replace("out", "w.npz/below") if word == "out" else word for word in words]
    code, out, err = call(*words, capsys=capsys)
    assert code in (1, 2), err
    assert (out, "Traceback" in err) == ("", False)
    assert [path for path in place.rglob("*") if path.is_file()] == [place / "w.npz"]


NUMBERS = {
    "run --demo --text a --max-new-tokens 2 --eos {}": "eos: found",
    "run --demo --ids {}": "found a number beyond 64 bits",
    "run --demo --text a --max-new-tokens {}": "max_new_tokens: found",
    "sensitivity --demo --perturbations {}": "perturbations: found",
    "make out --layers {}": "--layers: found",
    "make out --seed {}": "seed: found",
    "study w.npz -s e4m3:1x{}": "unknown group",
    "study w.npz -s logfmt{}": "logfmt1",
    "golden cast --set rows={} --out out": "rows: found",
    "golden product --set k={} --out out": "k: found",
    "codesign roofline deepseek_v3 --batch 1:{}": "batch: found",
    "convert {{model}} out --to bf16 --threads {}": "1024",
}


@pytest.mark.parametrize("words", NUMBERS)
@pytest.mark.parametrize("number", ["1" + 30 * "0", "9" * 5000])
def test_absurd_numbers_are_refused_by_name(
    words: str, number: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [word.format(number).format(model=demo_checkpoint()) for word in words.split()]
    code, out, err = call(*args, capsys=capsys)
    assert (code in (1, 2), out, "Traceback" in err) == (True, "", False), err
    assert max(map(len, err.splitlines())) < LINE
    if len(number) < 100:
        assert NUMBERS[words] in err
    assert [path for path in place.rglob("*") if path.is_file()] == [place / "w.npz"]


def test_a_name_that_is_no_text_is_written_with_escapes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo_checkpoint(), "a\udc80b")
    code, out, err = call("inspect", "a\udc80b", capsys=capsys)
    assert (code, "a\\udc80b" in out, err) == (0, True, "")
