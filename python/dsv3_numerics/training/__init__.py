"""Training: the three products of a linear layer, the eight of a SwiGLU expert, and what they lose.

Lives here: which operand is grouped how, for ``y = x w^T`` with x (tokens, in) and w (out, in):

======= =============== =========== ============= ======================== ========
product                 summed over activations   other operand            result
======= =============== =========== ============= ======================== ========
fprop   ``y = x w^T``   in          x, 1x128      w, 128x128               bfloat16
dgrad   ``dx = dy w``   out         dy, 1x128     w, the same blocks       bfloat16
wgrad   ``dw = dy^T x`` tokens      dy, 128x1     x, 128x1                 float32
======= =============== =========== ============= ======================== ========

and what DeepSeek-V3's recipe makes of an expert, ``y = (silu(x gate^T) * (x up^T)) down^T``, with x (tokens,
hidden), gate and up (inner, hidden), down (hidden, inner):

================ ==================================================================================
x                arrives in FP8, 1x128, scales 2**k; gate's and up's Fprop take these codes, and their
                 Wgrads the same codes regrouped to 128x1, which rounds nothing
gate, up outputs BF16; SwiGLU takes them as they are, and they wait for backward in FP8, 1x128
SwiGLU's output  quantized 1x128 for down's Fprop; not kept. Backward makes it again from the FP8 inputs
                 and quantizes it 128x1 for down's Wgrad
dy               arrives in FP8, 1x128, scales 2**k; down's Dgrad takes these codes, and its Wgrad the
                 same codes regrouped
SwiGLU backward  in float32 from the FP8 inputs and down's BF16 Dgrad; both gradients are quantized
                 twice, 1x128 for Dgrad and 128x1 for Wgrad
dx               gate and up lie side by side in one matrix, as in DeepGEMM, so that one float32 sum
                 runs over both Dgrads; rounded to BF16 once, for the combine
weights          gradients are float32, added to float32
================ ==================================================================================

The parts: `recipe` (schemes, the special places of the report, and bfloat16 and float64 beside them),
`products` (the three), `swiglu`, `expert` (forward and backward), `errors` and `expert_figures` (each product
against float64). Not here: quantization (`quant`, `schemes`), sums (`gemm`). Sources: DeepSeek-V3 technical
report, 3.3.2, 3.3.3 and 3.5.2; the types of the results are those of DeepGEMM's kernels.
"""

from .errors import Comparison, LinearErrors, ProductError, linear_comparison, linear_errors
from .expert import (
    ExpertGradients,
    ExpertWeights,
    SavedActivations,
    expert_backward,
    expert_forward,
    quantize_weights,
)
from .expert_figures import ExpertErrors, expert_comparison, expert_errors
from .products import dgrad, fprop, wgrad
from .recipe import (
    BLACKWELL_EXPERT_PRESETS,
    BLACKWELL_LINEAR_PRESETS,
    EXPERT_PRESETS,
    LINEAR_PRESETS,
    ExpertRecipe,
    LinearRecipe,
)

__all__ = [
    "BLACKWELL_EXPERT_PRESETS",
    "BLACKWELL_LINEAR_PRESETS",
    "EXPERT_PRESETS",
    "LINEAR_PRESETS",
    "Comparison",
    "ExpertErrors",
    "ExpertGradients",
    "ExpertRecipe",
    "ExpertWeights",
    "LinearErrors",
    "LinearRecipe",
    "ProductError",
    "SavedActivations",
    "dgrad",
    "expert_backward",
    "expert_comparison",
    "expert_errors",
    "expert_forward",
    "fprop",
    "linear_comparison",
    "linear_errors",
    "quantize_weights",
    "wgrad",
]
