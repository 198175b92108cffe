"""Inspection: what is counted, what is said of scales, and every contradiction that is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import checkpoint, cli
from dsv3_numerics.checkpoint import CheckpointError, consistency
from dsv3_numerics.model import families
from stored import INDEX, of_arrays, shards

GOLDEN = Path(__file__).parent.parent / "golden"
CODES = np.ones((200, 300), ml_dtypes.float8_e4m3fn)
SCALES = np.full((2, 3), 0.3, np.float32)
POWERS = np.float32([[0.5, 2, 2**-20], [1, 4, 2**-126]])
CONFIG = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 1,
    "num_nextn_predict_layers": 1,
    "hidden_size": 300,
    "vocab_size": 40,
    "n_routed_experts": 2,
    "moe_intermediate_size": 200,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}
ARRAYS = {
    "model.embed_tokens.weight": np.ones((40, 300), ml_dtypes.bfloat16),
    "model.layers.0.input_layernorm.weight": np.ones(300, ml_dtypes.bfloat16),
    "model.layers.0.self_attn.o_proj.weight": CODES,
    "model.layers.0.self_attn.o_proj.weight_scale_inv": SCALES,
    **{
        f"model.layers.1.mlp.experts.{i}.{part}_proj.weight{end}": x
        for i in range(2)
        for part in ("gate", "up")
        for end, x in (("", CODES), ("_scale_inv", SCALES))
    },
}
FIRST = {name: x for name, x in ARRAYS.items() if ".1." not in name}
SECOND = {name: x for name, x in ARRAYS.items() if ".1." in name}
O_PROJ = "model.layers.0.self_attn.o_proj.weight"


def folder(path: Path, changes: dict[str, Any] | None = None, config: Any = CONFIG) -> Path:
    """The checkpoint in two files, with some of its tensors others (None: left out)."""
    files = {
        file: {name: x for name, x in (arrays | (changes or {})).items() if x is not None and name in ARRAYS}
        for file, arrays in (("a.safetensors", FIRST), ("b.safetensors", SECOND))
    }
    for arrays, own in zip(files.values(), (FIRST, SECOND), strict=True):
        for name in [name for name in arrays if name not in own]:
            del arrays[name]
    files["b.safetensors"] |= {k: x for k, x in (changes or {}).items() if k not in ARRAYS}
    return shards(path, files, config)


def kinds(found: checkpoint.Inspection) -> list[tuple[str, bool]]:
    return [(problem.kind, problem.note) for problem in found.problems]


def test_a_consistent_checkpoint_is_counted(tmp_path: Path) -> None:
    found = checkpoint.inspect(folder(tmp_path))
    assert found.problems == []
    assert found.consistent
    weights = [x for name, x in ARRAYS.items() if not name.endswith("_scale_inv")]
    assert found.total.tensors == len(ARRAYS)
    assert found.total.parameters == sum(x.size for x in weights)
    assert found.total.nbytes == sum(x.nbytes for x in ARRAYS.values())
    for groups in (found.dtypes, found.layers):
        assert sum(group.tensors for group in groups.values()) == len(ARRAYS)
        assert sum(group.parameters for group in groups.values()) == found.total.parameters
        assert sum(group.nbytes for group in groups.values()) == found.total.nbytes
    assert set(found.layers) == {"", "0", "1"}
    assert found.layers["1"].parameters == 4 * 60_000
    assert found.mtp == ["1"]
    assert {row.name: (row.tensors, row.scales) for row in found.patterns} == {
        "model.embed_tokens.weight": (1, ""),
        "model.layers.0.input_layernorm.weight": (1, ""),
        "model.layers.0.self_attn.o_proj.weight": (1, "F32 [2, 3]"),
        "model.layers.1.mlp.experts.{0-1}.gate_proj.weight": (2, "F32 [2, 3]"),
        "model.layers.1.mlp.experts.{0-1}.up_proj.weight": (2, "F32 [2, 3]"),
    }
    assert sum(row.nbytes for row in found.patterns) == found.total.nbytes
    assert (found.scales.weights, found.scales.count, found.scales.block) == (5, 5, (128, 128))


@pytest.mark.parametrize("name", ["tiny_v3", "tiny_v3_fp8"])
def test_the_golden_checkpoints_are_consistent(name: str) -> None:
    found = checkpoint.inspect(GOLDEN / name, scales=True)
    assert found.problems == []
    assert found.scales.weights == (48 if name == "tiny_v3_fp8" else 0)
    assert found.scales.format == ("float32" if name == "tiny_v3_fp8" else None)


@pytest.mark.parametrize(
    ("scale", "declared", "format", "powers"),
    [
        (SCALES, None, "float32", False),
        (POWERS, None, "ue8m0", True),
        (POWERS, "ue8m0", "ue8m0", True),
        (POWERS.astype(ml_dtypes.float8_e8m0fnu), "ue8m0", "ue8m0", True),
        (SCALES.astype(ml_dtypes.bfloat16), None, "float32", False),
    ],
)
def test_the_format_of_scales_is_seen_in_their_values(
    tmp_path: Path, scale: np.ndarray, declared: str | None, format: str, powers: bool
) -> None:
    config = CONFIG | {"quantization_config": {"scale_fmt": declared}}
    changes = {name: scale for name in ARRAYS if name.endswith("_scale_inv")}
    found = checkpoint.inspect(folder(tmp_path, changes, config))
    assert found.problems == []
    assert (found.scales.format, found.scales.powers_of_two, found.scales.declared) == (
        format,
        powers,
        declared,
    )


def test_many_scales_are_sampled_unless_all_are_asked_for(tmp_path: Path) -> None:
    """One scale in the middle is no power of two: whoever reads all finds it."""
    arrays = {}
    for i in range(200):
        arrays[f"layers.{i}.w"] = np.ones((2, 2), ml_dtypes.float8_e4m3fn)
        arrays[f"layers.{i}.w_scale_inv"] = np.float32([[0.75 if i == 101 else 0.25]])
    (tmp_path / "m.safetensors").write_bytes(of_arrays(arrays))
    sample, everything = (checkpoint.inspect(tmp_path, scales=scales).scales for scales in (False, True))
    assert (sample.read, sample.powers_of_two) == (64, True)
    assert (everything.read, everything.powers_of_two) == (200, False)
    assert (everything.least, everything.largest) == (0.25, 0.75)


def test_globs_select_weights_with_their_scales(tmp_path: Path) -> None:
    found = checkpoint.inspect(folder(tmp_path), include=["*experts*"], exclude=["*.up_proj.weight"])
    assert {info.name.split(".")[-2] for info in found.tensors} == {"gate_proj"}
    assert (found.total.tensors, found.scales.weights, found.problems) == (4, 2, [])


def without(name: str) -> dict[str, Any]:
    return {name: None}


def quantization(**changes: Any) -> dict[str, Any]:
    return CONFIG | {"quantization_config": CONFIG["quantization_config"] | changes}  # type: ignore[operator]


# changes, configuration, the problem's kind, a part of its text, whether it is a note
CONTRADICTIONS: dict[str, tuple[dict[str, Any], Any, str, str, bool]] = {
    "no scales": (without(f"{O_PROJ}_scale_inv"), CONFIG, "scale missing", "o_proj.weight_scale_inv'", False),
    "no weight": (without(O_PROJ), CONFIG, "scale without weight", "the weight that it is for", False),
    "shape of scales": (
        {f"{O_PROJ}_scale_inv": SCALES.T},
        CONFIG,
        "scale does not fit",
        "found shape [3, 2], expected [2, 3]",
        False,
    ),
    "dtype of scales": (
        {f"{O_PROJ}_scale_inv": SCALES.astype(np.float64)},
        CONFIG,
        "scale does not fit",
        "found F64",
        False,
    ),
    "scales of bfloat16 weights": (
        {O_PROJ: CODES.astype(ml_dtypes.bfloat16)},
        CONFIG,
        "scale does not fit",
        "is BF16",
        False,
    ),
    "nan scale": ({f"{O_PROJ}_scale_inv": SCALES * np.nan}, CONFIG, "scale NaN", "6 of 6 scales", False),
    "negative scale": ({f"{O_PROJ}_scale_inv": -SCALES}, CONFIG, "scale negative", "6 of 6 scales", False),
    "infinite scale": ({f"{O_PROJ}_scale_inv": SCALES * np.inf}, CONFIG, "scale infinite", "6 of 6", False),
    "zero scale": ({f"{O_PROJ}_scale_inv": SCALES * 0}, CONFIG, "scale zero", "6 of 6 scales", True),
    "another block": ({}, quantization(weight_block_size=[64, 64]), "scale does not fit", "of 64x64", False),
    "no block": ({}, quantization(weight_block_size=[0]), "config", "expected two positive", False),
    "ue8m0 declared": ({}, quantization(scale_fmt="ue8m0"), "config", "no powers of two", False),
    "e5m2 declared": ({}, quantization(fmt="e5m2"), "config", "codes are float8_e4m3fn", False),
    "e8m0 not declared": (
        {name: POWERS.astype(ml_dtypes.float8_e8m0fnu) for name in ARRAYS if name.endswith("_inv")},
        CONFIG,
        "config",
        "stored as F8_E8M0",
        True,
    ),
    "not declared": ({}, {"model_type": "deepseek_v3"}, "config", "no quantization_config", False),
    "a section of lists": ({}, {"quantization_config": []}, "config", "expected an object", False),
    "absurdly many layers": (
        {},
        CONFIG | {"num_hidden_layers": 10**12},
        "config",
        "layer 2, 3, 4, 5, 6, 7, 8, 9 (and 999999999990 more) is not there",
        False,
    ),
    "absurdly many experts": (
        {},
        CONFIG | {"n_routed_experts": 10**9},
        "config",
        "others than experts 0 to 999999999",
        False,
    ),
    "more layers declared": ({}, CONFIG | {"num_hidden_layers": 9}, "config", "layer 2, 3, 4, 5, 6", False),
    "no layer for prediction": (
        {},
        CONFIG | {"num_hidden_layers": 2},
        "config",
        "but layer 2 is not there",
        True,
    ),
    "fewer layers declared": (
        {},
        CONFIG | {"num_nextn_predict_layers": 0},
        "config",
        "layer 1 is one",
        False,
    ),
    "more experts declared": ({}, CONFIG | {"n_routed_experts": 3}, "config", "layer 1 has others", False),
    "another width": ({}, CONFIG | {"hidden_size": 301}, "config", "vocab_size x hidden_size is", False),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_every_contradiction_is_found(tmp_path: Path, what: str) -> None:
    changes, config, kind, text, note = CONTRADICTIONS[what]
    found = checkpoint.inspect(folder(tmp_path, changes, config), scales=True)
    assert {problem.kind for problem in found.problems} == {kind}, found.problems
    assert any(text in problem.text and problem.note is note for problem in found.problems), found.problems
    assert found.consistent is note
    assert all(problem.text.startswith(str(tmp_path)) for problem in found.problems)


def test_nothing_quantized_against_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(of_arrays({"w": np.ones(2)}))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    (problem,) = checkpoint.inspect(tmp_path).problems
    assert "no weight is in low precision" in problem.text


def test_one_shard_of_several_may_lack_what_is_in_others(tmp_path: Path) -> None:
    folder(tmp_path, {O_PROJ: None})
    moved = {O_PROJ: CODES}
    (tmp_path / "c.safetensors").write_bytes(of_arrays(moved))
    for file, kind in (("a", "scale without weight"), ("c", "scale missing")):
        found = checkpoint.inspect(tmp_path / f"{file}.safetensors")
        assert (kinds(found), found.consistent) == ([(kind, True)], True)


def missing_file(path: Path) -> None:
    (path / "b.safetensors").unlink()


def broken_file(path: Path) -> None:
    (path / "b.safetensors").write_bytes(b"broken")


def other_tensors(path: Path) -> None:
    (path / "b.safetensors").write_bytes(of_arrays({"other": np.ones(2)}))


def one_more_file(path: Path) -> None:
    (path / "c.safetensors").write_bytes(of_arrays({"other": np.ones(2)}))


def another_total(path: Path) -> None:
    content = json.loads((path / INDEX).read_text())
    (path / INDEX).write_text(json.dumps(content | {"metadata": {"total_size": 1}}))


@pytest.mark.parametrize(
    ("damage", "expected", "consistent"),
    [
        (missing_file, {"file missing"}, False),
        (broken_file, {"file unreadable"}, False),
        (other_tensors, {"tensor missing", "not in the index"}, False),
        (one_more_file, {"not in the index"}, True),
        (another_total, {"index total"}, True),
    ],
)
def test_index_and_files_are_compared(
    tmp_path: Path, damage: Callable[[Path], None], expected: set[str], consistent: bool
) -> None:
    damage(folder(tmp_path))
    found = checkpoint.inspect(tmp_path)
    assert ({kind for kind, _ in kinds(found)}, found.consistent) == (expected, consistent)
    assert "model.embed_tokens.weight" in {info.name for info in found.tensors}, "the rest is still told"


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(of_arrays({"w": np.ones(2)}))
    assert kinds(checkpoint.inspect(tmp_path)) == [("tensor twice", False)]


# --- The command line ---------------------------------------------------------------------------------------


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", *args])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_people_get_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(str(GOLDEN / "tiny_v3_fp8"), "--scales", capsys=capsys)
    assert (code, err) == (0, "")
    for text in (
        "2 files, 121 tensors, 2.022 MB, 1.799 M parameters",
        "model.layers.{1-2}.mlp.experts.{0-3}.up_proj.weight",
        "2 (MTP)",
        "48 weights",
        "blocks of 128x128",
        "not only powers of two, by all 48",
        "Consistent.",
    ):
        assert text in out


def test_programs_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(str(GOLDEN / "tiny_v3_fp8"), "--json", "--include", "*.o_proj.*", capsys=capsys)
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["consistent"] is True
    assert content["total"] == {"tensors": 6, "parameters": 3 * 216 * 144, "nbytes": 3 * (216 * 144 + 16)}
    assert content["scales"]["format"] == "float32"
    with checkpoint.open(GOLDEN / "tiny_v3_fp8") as ckpt:
        first = content["tensors"][0]
        assert first == json.loads(json.dumps(ckpt.info(first["name"])._asdict())) | {"nbytes": 216 * 144}


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_problems_are_shown_and_are_the_exit_code(
    tmp_path: Path, as_json: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path, {name: None for name in ARRAYS if name.endswith("_scale_inv")})
    code, out, err = call(str(tmp_path), *as_json, capsys=capsys)
    assert (code, err) == (1, "")
    assert "scale missing" in out
    if not as_json:
        assert "Problem: scale missing (5)" in out
        assert "and 2 more" in out


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none", tmp_path):
        code, out, err = call(str(path), capsys=capsys)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        with pytest.raises(CheckpointError):
            checkpoint.inspect(path)


@pytest.mark.parametrize("kind", [*families.FAMILIES, "text_config"])
def test_layers_and_shapes_of_every_family_that_the_forward_knows(tmp_path: Path, kind: str) -> None:
    other = {alias: name for name, alias in consistency.FAMILIES.get(kind, {}).items()}
    for i, (change, text) in enumerate(
        (
            ({}, None),
            ({"num_hidden_layers": 9}, "layer 2, 3, 4, 5, 6"),
            ({"n_routed_experts": 3}, "layer 1 has others"),
            ({"hidden_size": 301}, "vocab_size x hidden_size is"),
        )
    ):
        config: dict[str, Any] = CONFIG | change
        if kind == "text_config":
            config = {"model_type": "kimi_k25", "text_config": config | {"model_type": "kimi_k2"}}
        else:
            config["model_type"] = kind
            for alias, name in other.items():
                config[alias] = config.pop(name)
        found = checkpoint.inspect(folder(tmp_path / str(i), config=config))
        assert found.consistent is (text is None), found.problems
        assert text is None or any(text in problem.text for problem in found.problems)
