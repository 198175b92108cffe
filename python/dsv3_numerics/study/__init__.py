"""Error studies: what quantization schemes do to real tensors.

`run` takes files, checkpoint folders or arrays through a set of schemes and returns a `Study`; `measure` does
it for one array and one scheme; `run_activations` takes the inputs of a model's linear layers instead. The
parts: `slabs` (pieces that fit in memory), `metrics` (sums and
figures), `sweep` and `activations` (the loops), `result` (what comes out), and what is written from it:
`tables`, `files`, `plots`, `report`. Reading files is `dsv3_numerics.checkpoint`, how a
tensor is quantized `dsv3_numerics.schemes`.

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
from .activations import fill_activations, prepare_activations, run_activations
from .demo import demo_inputs
from .metrics import METRICS, Metrics
from .result import Study, TensorResult, Total
from .sweep import DEFAULT_SCHEMES, fill, measure, prepare, run

__all__ = [
    "DEFAULT_SCHEMES",
    "METRICS",
    "Approximation",
    "CheckpointError",
    "Metrics",
    "Scheme",
    "Skipped",
    "Study",
    "TensorResult",
    "Total",
    "demo_inputs",
    "fill",
    "fill_activations",
    "measure",
    "prepare",
    "prepare_activations",
    "run",
    "run_activations",
]
