"""A linear layer in training: its three products in DeepSeek-V3's FP8 recipe, and what they cost in accuracy.

Lives here: which operand is grouped how, for ``y = x w^T`` with x (tokens, in) and w (out, in):

======= =============== =========== ============= ======================== ========
product                 summed over left operand  right operand            result
======= =============== =========== ============= ======================== ========
fprop   ``y = x w^T``   in          x, 1x128      w, 128x128               bfloat16
dgrad   ``dx = dy w``   out         dy, 1x128     w, the same blocks       bfloat16
wgrad   ``dw = dy^T x`` tokens      dy, 128x1     x, 128x1                 float32
======= =============== =========== ============= ======================== ========

The parts: `recipe` (formats, scales, the special places of the report, and bfloat16 and float64 beside them),
`products` (the three), `errors` (each against float64). Not here: quantization (`quant`), sums (`gemm`), an
expert of three such layers (`expert`). Sources: DeepSeek-V3 technical report, 3.3.2, 3.3.3 and 3.5.2; the
types of the results are those of DeepGEMM's kernels.
"""

from .errors import Comparison, LinearErrors, ProductError, linear_comparison, linear_errors
from .products import dgrad, fprop, wgrad
from .recipe import DEEPSEEK_V3, PRESETS, LinearRecipe, turned

__all__ = [
    "DEEPSEEK_V3",
    "PRESETS",
    "Comparison",
    "LinearErrors",
    "LinearRecipe",
    "ProductError",
    "dgrad",
    "fprop",
    "linear_comparison",
    "linear_errors",
    "turned",
    "wgrad",
]
