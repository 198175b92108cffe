"""THE table of DeepSeek-V3 layer shapes: every weight matrix, once.

Each row gives the matrix as it stands in the checkpoint, ``W[out, in]`` with ``y = x Wᵀ``. Benches take
their shapes from here and from nowhere else. Norm vectors and biases are left out: 1.2 million of 671
billion parameters.
"""

from __future__ import annotations

from typing import NamedTuple

# The published configuration: https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/config.json
HIDDEN, VOCAB, HEADS = 7168, 129280, 128
Q_LORA, KV_LORA, NOPE, ROPE, V_HEAD = 1536, 512, 128, 64, 128
LAYERS, DENSE_LAYERS, MTP_LAYERS = 61, 3, 1
DENSE_INNER, EXPERT_INNER, EXPERTS, SHARED_EXPERTS = 18432, 2048, 256, 1

MOE_LAYERS = LAYERS - DENSE_LAYERS


class Shape(NamedTuple):
    """One weight matrix of the model."""

    name: str
    rows: int
    cols: int
    count: int
    "how many the model has, without the multi-token-prediction layer"
    mtp: int
    "how many the multi-token-prediction layer adds"
    fp8: bool
    "stored as FP8 with 128×128 scales in the released checkpoint"

    @property
    def parameters(self) -> int:
        """Elements of one such matrix."""
        return self.rows * self.cols


SHAPES = (
    #     name                  rows                    cols             count                   mtp     fp8
    Shape("embed_tokens", VOCAB, HIDDEN, 1, 0, False),
    Shape("q_a_proj", Q_LORA, HIDDEN, LAYERS, 1, True),
    Shape("q_b_proj", HEADS * (NOPE + ROPE), Q_LORA, LAYERS, 1, True),
    Shape("kv_a_proj_with_mqa", KV_LORA + ROPE, HIDDEN, LAYERS, 1, True),
    Shape("kv_b_proj", HEADS * (NOPE + V_HEAD), KV_LORA, LAYERS, 1, True),
    Shape("o_proj", HIDDEN, HEADS * V_HEAD, LAYERS, 1, True),
    Shape("dense.gate_proj", DENSE_INNER, HIDDEN, DENSE_LAYERS, 0, True),
    Shape("dense.up_proj", DENSE_INNER, HIDDEN, DENSE_LAYERS, 0, True),
    Shape("dense.down_proj", HIDDEN, DENSE_INNER, DENSE_LAYERS, 0, True),
    Shape("moe.gate", EXPERTS, HIDDEN, MOE_LAYERS, 1, False),
    Shape("expert.gate_proj", EXPERT_INNER, HIDDEN, MOE_LAYERS * EXPERTS, EXPERTS, True),
    Shape("expert.up_proj", EXPERT_INNER, HIDDEN, MOE_LAYERS * EXPERTS, EXPERTS, True),
    Shape("expert.down_proj", HIDDEN, EXPERT_INNER, MOE_LAYERS * EXPERTS, EXPERTS, True),
    Shape("shared.gate_proj", SHARED_EXPERTS * EXPERT_INNER, HIDDEN, MOE_LAYERS, 1, True),
    Shape("shared.up_proj", SHARED_EXPERTS * EXPERT_INNER, HIDDEN, MOE_LAYERS, 1, True),
    Shape("shared.down_proj", HIDDEN, SHARED_EXPERTS * EXPERT_INNER, MOE_LAYERS, 1, True),
    Shape("mtp.eh_proj", HIDDEN, 2 * HIDDEN, 0, 1, False),
    Shape("lm_head", VOCAB, HIDDEN, 1, 0, False),
)


def shape(name: str) -> Shape:
    """Look one row up by its name."""
    return next(s for s in SHAPES if s.name == name)


def check() -> None:
    """Hold the table against three published or independently known sums."""
    total = sum(s.parameters * s.count for s in SHAPES)
    assert round(total / 1e9) == 671, total  # "671B total parameters"
    attention = sum(
        s.parameters for s in SHAPES if s.name.endswith(("a_proj", "b_proj", "with_mqa", "o_proj"))
    )
    assert round(attention / 1e5) == 1871, attention  # one MLA layer: 187.1e6
    expert = sum(s.parameters for s in SHAPES if s.name.startswith("expert."))
    moe = (EXPERTS + SHARED_EXPERTS) * expert + shape("moe.gate").parameters
    assert round(moe / 1e7) == 1132, moe  # one full mixture-of-experts layer: 11.32e9


def main() -> None:
    """Print the table."""
    check()
    for s in SHAPES:
        kind = "fp8" if s.fp8 else "bf16"
        print(
            f"{s.name:20} {s.rows:7} x {s.cols:5}  {kind:5} x{s.count + s.mtp:6}  {s.parameters / 1e6:8.1f} M"
        )


if __name__ == "__main__":
    main()
