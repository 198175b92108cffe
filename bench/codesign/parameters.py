"""Compares parameter totals of `dsv3_numerics.codesign` with those of transformers, on the meta device.

Needs torch and transformers (neither is a dependency): ``python bench/codesign/parameters.py``. Gate biases
that transformers keeps as buffers (``e_score_correction_bias``) are added to its counts. Prints a line a
model, and ends with 1 if a total differs.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers

from dsv3_numerics.codesign import presets, read_shape

CHANGES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3},
    "deepseek_v2_lite": {"topk_method": "greedy", "n_group": 1, "topk_group": 1},
}
SKIPPED = {
    "deepseek_v4_flash": "small tensors of DeepSeek-V4 are left out, 2e-6 to 6e-6 of the total",
    "deepseek_v4_pro": "the same",
    "deepseek_v41_flash": "weights not published",
}


def theirs(name: str) -> int:
    """Parameters of transformers' model of a preset."""
    import json
    from pathlib import Path

    import dsv3_numerics.codesign as room

    content = json.loads((Path(room.__file__).parent / "data" / "models" / f"{name}.json").read_text())
    kind = {"kimi_k2": "deepseek_v3"}.get(content["model_type"], content["model_type"])
    content = {
        k: v for k, v in content.items() if k not in ("source", "model_type", "num_nextn_predict_layers")
    }
    config = transformers.AutoConfig.for_model(kind, **(content | CHANGES.get(name, {})))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = sum(p.numel() for p in model.parameters())
    return found + sum(b.numel() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))


def main() -> int:
    """Compare all presets."""
    differ = 0
    for name in presets():
        if name in SKIPPED:
            print(f"{name:20} skipped: {SKIPPED[name]}")
            continue
        ours = read_shape(name).total
        try:
            other = theirs(name)
        except (KeyError, ValueError) as error:
            print(f"{name:20} {ours:>20,}  transformers does not have it: {str(error)[:60]}")
            continue
        differ += ours != other
        print(f"{name:20} {ours:>20,} {other:>20,}  {'equal' if ours == other else other - ours}")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
