"""The verb run: forwards, traces and generations from the command line."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import commands
import dsv3_numerics
from dsv3_numerics import Recipe
from dsv3_numerics.model import Config, Model, random_weights
from dsv3_numerics.model.operation_names import operation_names

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


def described(target: Path) -> dict[str, str]:
    """Metadata of a file."""
    if target.suffix == ".npz":
        found: dict[str, str] = json.loads(ZipFile(target).comment)
        return found
    with safe_open(target, "np") as file:
        found = file.metadata()
        return found


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_say_what_they_are_of(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / f"out{suffix}"
    (tmp_path / "mine.json").write_text('{"preset": "deepseek_v3", "cache": "fp8"}')
    args = ["--ids", "3,1,4", "--recipe", str(tmp_path / "mine.json"), "--out", str(target), "--overwrite"]
    for form, expected in (([], "naive, by cost"), (["--absorbed"], "absorbed"), (["--naive"], "naive")):
        assert call(str(FP8), *args, *form, capsys=capsys)[0] == 0
        about = described(target)
        assert about["attention"] == expected
    assert Recipe.from_json(about["recipe_fields"]) == Recipe.load(tmp_path / "mine.json")
    assert json.loads(about["config"])["hidden_size"] == 216
    expected_about = {
        "format": "dsv3_numerics.trace/1",
        "model": FP8.name,
        "model_type": "deepseek_v3",
        "dtype": "bf16",
        "weights_as_bf16": "false",
        "names": "ours",
        "dsv3_numerics": dsv3_numerics.__version__,
        "numpy": np.__version__,
    }
    assert expected_about.items() <= about.items()


def test_single_operations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, and what went in: the same as a hook sees, and logits as without."""
    target = tmp_path / "out.npz"
    names = ["layer1.q_a_proj", "layer*.experts.*.down_proj", "mtp.eh_proj", "layer0.attend"]
    args = [part for name in names for part in ("--trace", name)]
    code, _, err = call(str(TINY), "--ids", "3,1,4", *args, "--inputs", "--out", str(target), capsys=capsys)
    found = dict(np.load(target))
    assert (code, "did not run" in err) == (0, True)
    model, seen = Model.from_checkpoint(TINY), {}
    logits = model.forward([3, 1, 4], hook=lambda record: seen.setdefault(record.operation.name, record))
    assert np.array_equal(found["logits"], model.forward([3, 1, 4]))
    assert np.array_equal(found["logits"], logits)
    record = seen["layer1.q_a_proj"]
    assert np.array_equal(found["layer1.q_a_proj"], record.output)
    assert np.array_equal(found["layer1.q_a_proj.input"], record.inputs[0])
    ran = {name for name in seen if ".experts." in name and name.endswith("down_proj")}
    assert ran == {name for name in found if name.endswith("down_proj")}
    assert {"mtp.eh_proj", "layer0.attend", "layer0.attend.input1"} <= set(found)
    code, out, _ = call(str(TINY), "--trace", "operations", capsys=capsys)
    assert out.split() == list(operation_names(model.config))
    assert call(str(TINY), "--ids", "3", "--inputs", capsys=capsys)[0] == 2


@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v32"])
def test_names_of_operations_are_those_that_run(family: str) -> None:
    config = Config.preset("tiny")
    if family == "deepseek_v32":
        sizes = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 6}
        config = config.replace(model_type=family, num_nextn_predict_layers=0, **sizes)
    model, names = Model(config, random_weights(config)), []
    settings = {"hook": lambda record: names.append(record.operation.name), "absorbed": False}
    model.trace(np.arange(48) % 192, **settings)
    known = operation_names(config)
    assert set(names) <= set(known)
    ran = dict.fromkeys(names)
    assert [name for name in known if name in ran and not name.startswith("mtp")] == [
        name for name in ran if not name.startswith("mtp")
    ]
    assert {name for name in set(known) - set(names) if ".experts." not in name} == set()


def test_names_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Modules of transformers 5.24, listed by its hooks, and the few that have no counterpart."""
    modules = (Path(__file__).parents[1] / "golden" / "hf_modules.txt").read_text().split("\n")
    target = tmp_path / "out.npz"
    wanted = ["layer*", "layer*_proj", "layer*_layernorm", "layer*_mqa", "embed_tokens", "final_norm"]
    args = [part for name in wanted for part in ("--trace", name)]
    args += ["--naive", "--names", "hf", "--out", str(target)]
    assert call(str(TINY), "--ids", "3,1,4", *args, capsys=capsys)[0] == 0
    found = dict(np.load(target))
    listed = {line.split()[0]: line.split()[1] for line in modules if line}
    without = {name for name, like in listed.items() if like == "-"}
    assert set(listed) - without <= set(found)
    assert not without & set(found)
    assert all("mlp.experts" in x or "act_fn" in x or x == "model.rotary_emb" for x in without)
    model = Model.from_checkpoint(TINY)
    traced = model.trace([3, 1, 4], absorbed=False)
    for name, like in listed.items():
        if like in traced:
            assert np.array_equal(found[name].reshape(-1), traced[like].reshape(-1))
    assert found["lm_head"].shape == (1, 3, 192)
    assert found["model.layers.1.mlp.gate"].shape == (3, 24)
    assert "layer1.c_kv" in found


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
