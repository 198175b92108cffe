"""Error studies: what quantization schemes do to real tensors.

`run` takes files, checkpoint folders or arrays through a set of schemes and returns a `Study`; `measure` does
it for one array and one scheme; `run_activations` takes the inputs of a model's linear layers instead, and
`run_against` compares a quantized checkpoint with the original that it was made from. The parts: `slabs`
(pieces that fit in memory), `metrics` (sums and figures), `sweep`, `activations` and `against` (the loops),
`state` (a study that was stopped), `result` (the figures), `saved` (the result that users hold), and what is
made of it: `tables`, `files`, `plots`, `report`. Reading files is `dsv3_numerics.checkpoint`, how a tensor is
quantized `dsv3_numerics.schemes`.

Examples
--------
>>> import numpy as np
>>> from dsv3_numerics import study
>>> weights = {"w": np.random.default_rng(0).normal(0, 0.02, (256, 256))}
>>> found = study.run(weights, ["mxfp8", "mxfp4"])
>>> [round(total.pooled.bits_per_element, 2) for total in found.totals()]
[8.25, 4.25]
"""

from ..checkpoint import CheckpointError, Skipped
from ..schemes import Approximation, Scheme
from .activations import execute_activations as execute_activations
from .activations import prepare_activations as prepare_activations
from .activations import run_activations
from .against import STORED, run_against
from .demo import demo_inputs
from .metrics import METRICS, Metrics
from .result import StudyData, TensorResult, Total
from .saved import Study
from .sweep import DEFAULT_SCHEMES, measure, run
from .sweep import execute as execute
from .sweep import prepare as prepare

__all__ = [
    "DEFAULT_SCHEMES",
    "METRICS",
    "STORED",
    "Approximation",
    "CheckpointError",
    "Metrics",
    "Scheme",
    "Skipped",
    "Study",
    "StudyData",
    "TensorResult",
    "Total",
    "demo_inputs",
    "measure",
    "run",
    "run_activations",
    "run_against",
]
