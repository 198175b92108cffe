"""Sensitivity analysis: which low-precision choice of a recipe costs how much, and where.

`run` takes a model, a recipe and token ids, turns each choice on alone, off alone, and all together, and
measures every variant three times: one operation at a time, one layer at a time, and the whole forward. The
parts: `variant` (what is measured), `metrics` (figures), `forward` (the reference, and running freely),
`measuring` (the three views), `running` (the loop), `parts` and `identity` (a folder that can be taken up),
`result` (the figures), `saved` (the result that users hold), and what is made of it: `tables`, `findings`,
`files`, `plots`, `report`. Not here: errors of tensors without a model, which are `dsv3_numerics.study`.

Examples
--------
>>> from dsv3_numerics import sensitivity
>>> from dsv3_numerics.model import Recipe
>>> found = sensitivity.run(sensitivity.random_model(), [3, 1, 4], Recipe(cache="bf16"), perturbations=0)
>>> found.choices
['cache']
"""

from .metrics import Errors, Spread, divergence, other_experts, row_errors, same_top
from .result import COLUMNS, Cost, LogitDivergence, NoiseFloor, SensitivityData
from .running import RANDOM as RANDOM
from .running import TOKENS as TOKENS
from .running import execute as execute
from .running import prepare as prepare
from .running import random_ids, random_model, run
from .saved import Sensitivity
from .variant import PARTS, Variant, variants

__all__ = [
    "COLUMNS",
    "PARTS",
    "Cost",
    "Errors",
    "LogitDivergence",
    "NoiseFloor",
    "Sensitivity",
    "SensitivityData",
    "Spread",
    "Variant",
    "divergence",
    "other_experts",
    "random_ids",
    "random_model",
    "row_errors",
    "run",
    "same_top",
    "variants",
]
