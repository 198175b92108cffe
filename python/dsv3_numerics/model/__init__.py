"""The reference forward of DeepSeek-V3: MLA, DeepSeekMoE and MTP in true float64 or float32, on any CPU.

Lives here: the settings (`config`), which tensors there are (`weights`), what runs in which format (`recipe`,
`fields`), the steps that it is about (`operations`), the layers made of them, each usable
alone (`attention`, `experts`, `layers`), the latent cache (`cache`), the model with its traces (`model`),
generation (`generation`), what routing asks of a cluster (`routing`), random checkpoints to try things on
(`synthetic`), and a trained one (`demo`, `byte_tokenizer`). The arithmetic is the core's;
the same forward as a textbook is `reference.model`.
"""

from .attention import MLA
from .block import MTP, Block
from .byte_tokenizer import ByteTokenizer
from .cache import Cache
from .config import Config
from .demo import demo_checkpoint, demo_text
from .experts import MLP, Gate, MoE
from .generation import Generation, Sampler, Speculation, generate, stream
from .model import Model
from .random import random_weights
from .recipe import PRESETS, Recipe
from .records import OpRecord, Routing
from .rope_config import Yarn
from .routing import traffic, update_bias
from .synthetic import random_checkpoint
from .weights import CheckpointWeights, attention_shapes, expected_shapes

__all__ = [
    "MLA",
    "MLP",
    "MTP",
    "PRESETS",
    "Block",
    "ByteTokenizer",
    "Cache",
    "CheckpointWeights",
    "Config",
    "Gate",
    "Generation",
    "MoE",
    "Model",
    "OpRecord",
    "Recipe",
    "Routing",
    "Sampler",
    "Speculation",
    "Yarn",
    "attention_shapes",
    "demo_checkpoint",
    "demo_text",
    "expected_shapes",
    "generate",
    "random_checkpoint",
    "random_weights",
    "stream",
    "traffic",
    "update_bias",
]
