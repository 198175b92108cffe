"""Random checkpoints: in the release's format, like trained ones in what formats see, whole or not there."""

from __future__ import annotations

import os
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import checkpoint, cli
from dsv3_numerics.checkpoint.conversion.families import in_recipe
from dsv3_numerics.model import Config, Model, expected_shapes, random_checkpoint
from dsv3_numerics.model.block_pool import SIDE, BlockPool

# Full and ragged blocks on both axes, and two layers of experts, in half a megabyte.
CONFIG = Config.preset("tiny").replace(
    hidden_size=300, intermediate_size=400, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2
)
MLP = "model.layers.0.mlp."
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several files."""
    folder = tmp_path_factory.mktemp("made") / "fp8"
    assert random_checkpoint(folder, CONFIG, shard_bytes=400_000).files > 2
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_a_release(made: Path) -> None:
    report = checkpoint.inspect(made, scales=True)
    assert report.problems == []
    with checkpoint.open(made) as ckpt:
        dtypes = {name: ckpt.info(name).dtype for name in ckpt if not name.endswith("_scale_inv")}
        assert {n: ckpt.info(n).shape for n in dtypes} == expected_shapes(CONFIG)
        assert {n for n, d in dtypes.items() if d == "F8_E4M3"} == {n for n in dtypes if in_recipe(n)}
        assert {n.rpartition(".")[2] for n, d in dtypes.items() if d == "F32"} == {"e_score_correction_bias"}
        assert Config.from_json(ckpt.config or {}) == CONFIG


def test_the_forward_keeps_the_size_of_activations(made: Path) -> None:
    model = Model.from_checkpoint(made)
    seen = model.trace(np.arange(24), ["layer0.attn_out", "layer1.mlp_out", "layer2.output", "logits"])
    sizes = {name: float(np.sqrt(np.mean(x.astype(np.float64) ** 2))) for name, x in seen.items()}
    # Sums of random terms of either sign: within a factor of three of one, where weights of another scale
    # would be off by sqrt(300) = 17.
    assert {name: size for name, size in sizes.items() if not 1 / 10 < size < 10} == {}


@pytest.mark.parametrize("scale", ["float32", "ue8m0"])
def test_blocks_are_what_the_quantizer_makes(scale: Any) -> None:
    rows, cols = 2 * SIDE, 3 * SIDE + 40
    deck, rng = BlockPool(cols**-0.5, scale, [7]), np.random.default_rng(1)
    parts = [deck.band(SIDE, cols, rng) for _ in range(2)]
    codes = np.concatenate([values for values, _ in parts])
    scales = np.stack([scales for _, scales in parts])
    largest = np.array(
        [[(codes[i : i + SIDE, j : j + SIDE] & 0x7F).max() for j in range(0, cols, SIDE)] for i in (0, SIDE)]
    )
    assert codes.shape == (rows, cols)
    assert scales.shape == largest.shape == (2, 4)
    # 0x7F would be NaN, 0x7E is 448; a power of two at or above leaves at least half of that, 0x76.
    assert (largest == 0x7E).all() if scale == "float32" else ((largest >= 0x76) & (largest < 0x7F)).all()
    assert (np.frexp(scales)[0] == 0.5).all() == (scale == "ue8m0")
    numbers = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * np.kron(scales, np.ones((SIDE, SIDE)))[
        :rows, :cols
    ].astype(np.float64)
    # 10^5 samples of a normal distribution: mean and deviation to five standard errors, tails where they are.
    z = numbers * cols**0.5
    assert abs(z.mean()) < 5 / z.size**0.5
    assert abs(z.std() - 1) < 5 / (2 * z.size) ** 0.5 + 1e-3  # 1e-3: the noise of E4M3
    assert abs((np.abs(z) < 1).mean() - 0.6827) < 0.01
    assert 3.5 < np.abs(z).max() < 6


def test_dealt_rows_are_not_repeated() -> None:
    deck, rng = BlockPool(1.0, "float32", [0]), np.random.default_rng(2)
    codes = np.concatenate([deck.band(SIDE, 4 * SIDE, rng)[0] for _ in range(16)])
    assert len(np.unique(codes, axis=0)) == len(codes)


def test_plain_numbers(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, CONFIG, fp8=False, include=["*.0.mlp.*", "*bias"])
    with checkpoint.open(tmp_path) as ckpt:
        assert {ckpt.info(name).dtype for name in ckpt} == {"BF16", "F32"}
        assert ckpt.quantization == {}
        assert abs(ckpt[f"{MLP}up_proj.weight"].astype(np.float64).std() * 300**0.5 - 1) < 0.02


def test_powers_of_two_are_declared(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, CONFIG, scale="ue8m0", include=[f"{MLP}*"])
    found = checkpoint.inspect(tmp_path, scales=True)
    assert (found.scales.format, found.scales.declared) == ("ue8m0", "ue8m0")


def test_a_tensor_is_the_same_whatever_else_is_made(made: Path, tmp_path: Path) -> None:
    random_checkpoint(tmp_path, CONFIG, layers=[3], include=["*.experts.2.*", "*.q_b_proj.*"])
    with checkpoint.open(made) as all_of_it, checkpoint.open(tmp_path) as some:
        assert sorted(some) == [
            f"model.layers.3.{name}.weight{end}"
            for name in (
                "mlp.experts.2.down_proj",
                "mlp.experts.2.gate_proj",
                "mlp.experts.2.up_proj",
                "self_attn.q_b_proj",
            )
            for end in ("", "_scale_inv")
        ]
        assert all(np.array_equal(some[n].view(np.uint8), all_of_it[n].view(np.uint8)) for n in some)


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    for seed in (0, 1):
        random_checkpoint(tmp_path / str(seed), CONFIG, include=[f"{MLP}up*"], seed=seed)
    first, second = (contents(tmp_path / str(seed)) for seed in (0, 1))
    assert first["config.json"] == second["config.json"]
    name = "model-00001-of-000001.safetensors"
    assert np.mean(np.frombuffer(first[name], np.uint8) == np.frombuffer(second[name], np.uint8)) < 0.2


# --- Whole or not there ---------------------------------------------------------------------------------


def test_a_finished_folder_is_left_as_it_is(made: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert random_checkpoint(made, CONFIG, shard_bytes=400_000).written == 0
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


@pytest.mark.parametrize("stop", [1, 40, 130])
def test_a_stopped_run_goes_on(made: Path, tmp_path: Path, stop: int) -> None:
    calls: list[int] = []

    def interrupt(name: str, done: float, total: float) -> None:
        calls.append(done)
        if len(calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        random_checkpoint(tmp_path, CONFIG, shard_bytes=400_000, progress=interrupt)
    left = contents(tmp_path)
    assert all(contents(made)[name] == data for name, data in left.items())
    (tmp_path / ".model.0123456789ab.partial").write_bytes(b"what a killed run leaves")
    whole = sum(map(len, left.values()))
    again = random_checkpoint(tmp_path, CONFIG, shard_bytes=400_000)
    assert contents(tmp_path) == contents(made)
    assert again.written == sum(len(d) for n, d in contents(made).items() if n.endswith("tensors")) - whole


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    calls: list[tuple[str, float, float]] = []
    made = random_checkpoint(tmp_path, CONFIG, layers=[0], progress=lambda *call: calls.append(call))
    names, done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == made.written
    assert set(totals) == {made.written}
    assert set(names) == {name for name in expected_shapes(CONFIG) if ".layers.0." in name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "f16"}, "scale: found 'f16', expected one of float32, ue8m0"),
        ({"layers": []}, r"layers: found \[\], expected some of 0 to 3"),
        ({"layers": [4, 1]}, r"layers: found \[1, 4\], expected some of 0 to 3"),
        ({"include": ["*.nothing.*"]}, r"include: found '\*.nothing.\*', which matches no tensor"),
        ({"layers": [0], "include": ["lm_head*"]}, "include: found 'lm_head"),
        ({"seed": -1}, "seed: found -1"),
        ({"shard_bytes": 0}, "shard_bytes: found 0"),
    ],
)
def test_wrong_settings_leave_nothing(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        random_checkpoint(tmp_path / "new", CONFIG, **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"scale": "ue8m0"}, {"fp8": False}, {"shard_bytes": 500_000}, {"layers": [1]}]
)
def test_other_settings_refuse_the_folder(made: Path, settings: dict[str, Any]) -> None:
    before = contents(made)
    with pytest.raises(FileExistsError, match="expected an empty folder"):
        random_checkpoint(made, CONFIG, **{"shard_bytes": 400_000, **settings})
    assert contents(made) == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found notes.txt, expected an empty folder"):
        random_checkpoint(tmp_path, CONFIG)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        random_checkpoint(tmp_path / "file", CONFIG)


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1 << 40, 0, 1 << 20))
    with pytest.raises(OSError, match=r"684.88 GB are needed, 1.05 MB are free"):
        random_checkpoint(tmp_path / "new", Config.preset("deepseek_v3"))
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is making a checkpoint"):
            random_checkpoint(tmp_path, CONFIG)
    finally:
        os.close(handle)


# --- The verb -------------------------------------------------------------------------------------------


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_verb_makes_what_run_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("make", "new", "--weights", "fp8-ue8m0", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.startswith("new: 1 file, 525 tensors, 0.00129 GB; 0.00135 GB written in ")
    code, out, _ = call("make", "new", "--weights", "fp8-ue8m0", capsys=capsys)
    assert (code, out) == (0, "new: 1 file, 525 tensors, 0.00129 GB; everything was there\n")
    code, out, _ = call("run", "new", "--ids", "3,1,4", capsys=capsys)
    assert code == 0
    assert "probability" in out


def test_the_verb_takes_a_config_and_layers(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = call(
        "make", str(tmp_path / "new"), "--config", str(made), "--layers", "0,2-3", "--include", "*norm*",
        capsys=capsys,
    )  # fmt: skip
    assert code == 0
    with checkpoint.open(tmp_path / "new") as ckpt:
        assert {name.split(".")[2] for name in ckpt} == {"0", "2", "3"}


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("--layers 3 --include '*.self_attn.*'", {"layers": [3], "include": ["*.self_attn.*"]}),
        ("--layers 3", {"layers": [3]}),
        ("everything", {}),
    ],
)
def test_the_help_says_how_much_it_is(
    line: str, settings: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 0))
    _, out, _ = call("make", "--help", capsys=capsys)
    said = re.search(rf"{re.escape(line)} +([0-9.]+) GB", out)
    with pytest.raises(OSError, match="are needed") as error:
        random_checkpoint("never-made", Config.preset("deepseek_v3"), **settings)
    needed = re.search(r"([0-9.]+) GB are needed", str(error.value))
    assert said
    assert needed
    assert float(said[1]) == pytest.approx(float(needed[1]), abs=0.5 * 10 ** -len(said[1].partition(".")[2]))
    assert not Path("never-made").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "huge"], "found 'huge', expected deepseek_v3, tiny, or a file"),
        (["--layers", "x"], "found 'x', expected numbers as 3 or 0,3-5"),
        (["--layers", "0-999999999"], "expected fewer layers"),
        (["--layers", "9"], "layers: found [9], expected some of 0 to 3"),
    ],
)
def test_the_verb_says_what_is_wrong(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call("make", str(tmp_path / "new"), *args, capsys=capsys)
    assert code in (1, 2)
    assert message in err
    assert not (tmp_path / "new").exists()
