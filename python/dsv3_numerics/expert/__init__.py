"""One SwiGLU expert in training: ``y = (silu(x gate^T) * (x up^T)) down^T``, forward and backward.

What DeepSeek-V3's recipe makes of it (technical report, 3.3.3 and 3.5.2), with x (tokens, hidden), gate and
up (inner, hidden), down (hidden, inner):

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

The same in bfloat16, with the rounding points of torch's autograd, and in float64. The parts: `recipe`,
`passes` (forward and backward), `errors` (each product against float64). The three products of a single layer
are in `linear`.
"""

from .errors import ExpertErrors, expert_comparison, expert_errors
from .passes import Gradients, Saved, Weights, backward, cast, forward
from .recipe import DEEPSEEK_V3, PRESETS, ExpertRecipe

__all__ = [
    "DEEPSEEK_V3",
    "PRESETS",
    "ExpertErrors",
    "ExpertRecipe",
    "Gradients",
    "Saved",
    "Weights",
    "backward",
    "cast",
    "expert_comparison",
    "expert_errors",
    "forward",
]
