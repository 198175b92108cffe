"""The trained model that comes with the package: whole, good, and the same under every way of running it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dsv3_numerics import checkpoint, cli
from dsv3_numerics.model import ByteTokenizer, Model, demo_checkpoint, demo_text

TOKENS = 512
WINDOWS = 16  # 8 KiB of the held-out novel
BITS = 1.832837  # bits per byte of the float64 forward on them, as measured when the model was made
PROMPT = "I am sure you canno"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_checkpoint(demo_checkpoint(), dtype=np.float64)


@pytest.fixture(scope="module")
def rows() -> NDArray[np.int64]:
    """Windows of held-out text, each with one byte more to predict."""
    ids = np.frombuffer(demo_text().encode(), np.uint8).astype(np.int64)
    return np.stack([ids[i * TOKENS : (i + 1) * TOKENS + 1] for i in range(WINDOWS)])


def bits(model: Model, rows: NDArray[np.int64], recipe: str | None = None) -> float:
    """Bits per byte: how many the next bytes take, by the model's probabilities."""
    logits = model.forward(rows[:, :-1], recipe=recipe).astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    log_sum = top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))
    right = np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]
    return float((log_sum - right).mean() / np.log(2))


def test_it_is_as_good_as_recorded(model: Model, rows: NDArray[np.int64]) -> None:
    """Sums in another order, on another CPU, move this by 1e-10; another model or forward by far more."""
    assert bits(model, rows) == pytest.approx(BITS, abs=1e-5)


@pytest.mark.parametrize("recipe", ["bf16", "deepseek_v3"])
def test_recipes_cost_less_than_half_a_percent(model: Model, rows: NDArray[np.int64], recipe: str) -> None:
    """The report's figure for its whole training in FP8 is 0.25 %."""
    assert abs(bits(model, rows, recipe) / BITS - 1) < 0.005


def test_it_writes_on(model: Model) -> None:
    """Greedy decoding gives the same text every time, with drafts and without, and it is words."""
    tokenizer = ByteTokenizer.from_file(demo_checkpoint() / "tokenizer.json")
    assert tokenizer is not None
    ids = tokenizer.encode(PROMPT)
    plain = model.generate(ids, max_new_tokens=96)
    fast = model.generate(ids, max_new_tokens=96, speculative=True)
    assert plain.tokens.tolist() == fast.tokens.tolist()
    assert plain.tokens.tolist() == model.generate(ids, max_new_tokens=96).tokens.tolist()
    text = tokenizer.decode(plain.tokens)
    assert text.startswith("t ")
    known = set(demo_text().lower().split())
    words = text.lower().split()[1:-1]
    assert len(words) > 10
    assert sum(word in known for word in words) > len(words) / 2
    assert fast.speculation is not None
    assert fast.speculation.acceptance > 0.5


def test_it_is_a_small_consistent_release() -> None:
    folder = demo_checkpoint()
    checkpoint_files = folder / "model.safetensors", folder / "config.json"
    assert sum(path.stat().st_size for path in checkpoint_files) <= 5_000_000
    found = checkpoint.inspect(folder)
    assert found.problems == []
    with checkpoint.open(folder) as opened:
        names = set(opened)
        shared = {
            "model.layers.4.embed_tokens.weight": "model.embed_tokens.weight",
            "model.layers.4.shared_head.head.weight": "lm_head.weight",
        }
        for copy, original in shared.items():
            assert np.array_equal(opened[copy].view(np.uint16), opened[original].view(np.uint16))
    assert {f"{n}_scale_inv" in names for n in names if n.endswith(("_proj.weight",)) and "eh_" not in n} == {
        True
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "held_out.txt", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_the_command_writes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "--demo", "--text", "It is a truth", "--max-new-tokens", "40"])
        out, err = capsys.readouterr()
        assert not stop.value.code
        assert "13 tokens read" in err
        assert len(out.rstrip("\n").encode()) in range(30, 41)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        cli.main(["run", "--demo", "--text", "It is a truth", "--max-new-tokens", "40"])
    assert capsys.readouterr().out == out, "drawn with one seed"
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--demo", str(tmp_path), "--text", "x"])
    assert stop.value.code == 2
    assert "not both" in capsys.readouterr().err
