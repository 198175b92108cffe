"""Fills docs/sensitivity.md from the reports under docs/sensitivity/; with --run, makes those anew (minutes).

A block of the page is what one report says, with pictures as seen from the page.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from blocks import rewrite, sections

from dsv3_numerics import sensitivity
from dsv3_numerics.model import Config, Model, random_checkpoint

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sensitivity.md"
REPORTS = PAGE.parent / "sensitivity"
TOLD = ("What came out", "What each choice costs", "Costs of choices", "Divergence over tokens")
TOLD += ("Error by layer", "Expert sets by layer", "Error by operation")

LARGER: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "kv_lora_rank": 128,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "num_nextn_predict_layers": 0,
}
"""A random model somewhat larger than the tiny one: five layers, four of them with 32 experts."""


def body(name: str) -> str:
    """Make the page's text of a sensitivity analysis: its findings, its choices, and its pictures."""
    found = sections(REPORTS / name / "report.md", f"sensitivity/{name}")
    first, *others = TOLD
    return "\n\n".join([found[first], *(f"**{title}**\n\n{found[title]}" for title in others)])


BLOCKS = ("tiny_v3_fp8", "larger")


def _run() -> None:
    with tempfile.TemporaryDirectory() as made:
        random_checkpoint(Path(made) / "larger", Config.preset("tiny").replace(**LARGER), seed=0)
        golden = ROOT / "tests" / "golden" / "tiny_v3_fp8"
        for path, tokens in ((golden, 128), (Path(made) / "larger", 256)):
            model = Model.from_checkpoint(path)
            found = sensitivity.run(model, sensitivity.random_ids(model, tokens))
            found.notes.append(sensitivity.RANDOM)
            found.settings["source"] = path.name
            print(found.save(REPORTS / path.name))
            for figures in ("results.csv", "results.json"):  # half a megabyte each
                (REPORTS / path.name / figures).unlink()


def main() -> None:
    """Rewrite the blocks."""
    if "--run" in sys.argv:
        _run()
    rewrite(PAGE, {block: body(block) for block in BLOCKS})


if __name__ == "__main__":
    main()
