"""Dumps a DeepSeek-V3 of transformers by forward hooks: `python dump_transformers.py MODEL OUT.npz 3,1,4`.

Needs torch and transformers; nothing else of the project does. Every module whose output is a tensor is
kept under its own name, of several outputs the first, in float32. MODEL is a folder with config.json
and safetensors, as `tests/golden/tiny_v3`. `--nudge SEED` moves one channel in eight of each embedding by
its last place: such runs are the noise floor of `dsv3-numerics compare --model`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("ids")
    parser.add_argument("--nudge", type=int)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                found[name] = first.detach().float().numpy().copy()

        return hook

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(keep(name))
    if given.nudge is not None:
        random = torch.Generator().manual_seed(given.nudge)

        def nudge(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            chosen = torch.rand(output.shape, generator=random) < 1 / 8
            up = torch.full_like(output, float("inf"))
            return torch.where(chosen, torch.nextafter(output, up), output)

        model.get_input_embeddings().register_forward_hook(nudge)
    with torch.no_grad():
        model(torch.tensor([[int(i) for i in given.ids.split(",")]]))
    np.savez(given.out, **found)


if __name__ == "__main__":
    main()
