"""The verb run: forwards, traces and generations from the command line."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

import commands
from dsv3_numerics import Recipe
from dsv3_numerics.model import Model

call = partial(commands.call, "run")

TINY = Path(__file__).parents[1] / "golden" / "tiny_v3"
FP8 = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"


@pytest.mark.parametrize("folder", [TINY, FP8])
def test_likeliest_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(str(folder), "--ids", "3,1,4", capsys=capsys)
    logits = Model.from_checkpoint(folder).forward([3, 1, 4])[-1]
    assert code == 0
    assert [int(line.split()[0]) for line in out.splitlines()[4:9]] == np.argsort(-logits)[:5].tolist()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_output_holds_logits_traces_and_tokens(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target, prompt = tmp_path / f"out{suffix}", tmp_path / "prompt.txt"
    prompt.write_text("3 1\n4, 1")
    args = ["--ids", f"@{prompt}", "--dtype", "float64", "--trace", "layer1.topk*", "--max-new-tokens", "4"]
    code, _, _ = call(str(TINY), *args, "--out", str(target), capsys=capsys)
    found = dict(np.load(target)) if suffix == ".npz" else load_file(target)
    model = Model.from_checkpoint(TINY, dtype=np.float64)
    assert code == 0
    assert set(found) == {"ids", "logits", "layer1.topk_idx", "layer1.topk_weight", "tokens"}
    assert np.array_equal(found["logits"], model.forward([3, 1, 4, 1]))
    assert found["tokens"].tolist() == model.generate([3, 1, 4, 1], max_new_tokens=4).tokens.tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, "prompt.txt"])


def test_generation_prints_tokens_and_what_drafts_were_worth(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--ids", "3,1,4", "--max-new-tokens", "6", "--eos", "-1"]
    _, plain, _ = call(str(TINY), *args, capsys=capsys)
    code, fast, err = call(str(TINY), *args, "--speculative", capsys=capsys)
    assert code == 0
    assert plain.split() == fast.split()
    assert len(plain.split()) == 6
    assert "drafts accepted" in err
    assert "(1 + p) / (1 + c)" in err


def test_trace_names_are_listed_and_summarised(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(str(TINY), "--trace", "list", capsys=capsys)
    assert out.split() == list(Model.from_checkpoint(TINY).trace_names())
    _, out, _ = call(str(TINY), "--ids", "3", "--trace", "layer*.c_kv", capsys=capsys)
    assert [line.split()[0] for line in out.splitlines() if "c_kv" in line] == [
        f"layer{i}.c_kv" for i in range(3)
    ]


@pytest.mark.parametrize("form", ["--naive", "--absorbed"])
def test_recipes(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset and a file of fields give what the library gives, also in generation."""
    recipe = Recipe.preset("deepseek_v3").replace(cache="flashmla")
    (tmp_path / "mine.json").write_text('{"preset": "deepseek_v3", "cache": "fp8"}')
    model, target = Model.from_checkpoint(FP8), tmp_path / "out.npz"
    settings = {"recipe": recipe, "absorbed": form == "--absorbed"}
    args = ["--ids", "3,1,4", "--eos", "-1", form, "--max-new-tokens", "3", "--out", str(target)]
    code, _, _ = call(str(FP8), *args, "--recipe", str(tmp_path / "mine.json"), capsys=capsys)
    found = dict(np.load(target))
    assert code == 0
    assert np.array_equal(found["logits"], model.forward([3, 1, 4], **settings))
    tokens = model.generate([3, 1, 4], max_new_tokens=3, eos=-1, **settings).tokens
    assert found["tokens"].tolist() == tokens.tolist()


WRONG = {
    "no such recipe": (["--ids", "1", "--recipe", "deepseek_v4"], "did you mean deepseek_v3"),
    "no recipe file": (["--ids", "1", "--recipe", "nowhere.json"], "nowhere.json"),
    "no ids": ([], "give --ids or --text"),
    "both": (["--ids", "1", "--text", "a"], "not both"),
    "no number": (["--ids", "1,x"], "whole numbers"),
    "none": (["--ids", ","], "at least one token id"),
    "huge": (["--ids", str(2**70)], "64 bits"),
    "missing file": (["--ids", "@/nowhere/ids"], "nowhere"),
    "out of range": (["--ids", "500"], "expected 0 to 191"),
    "no such trace": (["--ids", "1", "--trace", "foo"], "--trace list"),
    "kind of file": (["--ids", "1", "--out", "x.txt"], ".npz or .safetensors"),
    "text": (["--text", "hello"], "--ids needs no tokenizer"),
    "sampled speculation": (
        ["--ids", "1", "--max-new-tokens", "2", "--speculative", "--temperature", "1"],
        "speculative",
    ),
}


@pytest.mark.parametrize(("args", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_clear_message(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(str(TINY), *args, capsys=capsys)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err


def test_text_goes_through_the_folders_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    words = {f"w{i}": i for i in range(192)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["type"] == "WordLevel"
    code, out, _ = call(str(folder), "--text", "w3 w1 w4", "--max-new-tokens", "3", capsys=capsys)
    tokens = Model.from_checkpoint(folder).generate([3, 1, 4], max_new_tokens=3).tokens
    assert code == 0
    assert out.split() == [f"w{i}" for i in tokens]


class _Unread:
    """The package tokenizers before a file that it does not know: a bare Exception."""

    @staticmethod
    def from_file(path: str) -> None:
        raise Exception("data did not match any variant at line 1")


@pytest.mark.parametrize("content", ["[]", "{}", "7", "", '{"model": []}'])
def test_a_tokenizer_that_is_none_is_noted(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=_Unread))
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "tokenizer.json").write_text(content)
    code, out, err = call(str(folder), "--ids", "3,1,4", capsys=capsys)
    assert (code, out) == call(str(TINY), "--ids", "3,1,4", capsys=capsys)[:2]
    assert err.startswith(f"note: {folder}/tokenizer.json: not a tokenizer")
    assert len(err.splitlines()) == 1
    code, out, err = call(str(folder), "--text", "a", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: --text: ")
    assert "tokenizer.json: not a tokenizer" in err
    assert "Traceback" not in err
