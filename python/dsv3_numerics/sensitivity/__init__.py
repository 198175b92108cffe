"""Attribution: which low-precision choice of a recipe costs how much, and where.

`run` takes a model, a recipe and token ids, turns each choice on alone, off alone, and all together, and
measures every variant three times: one operation at a time, one layer at a time, and the whole forward. The
parts: `variants` (what is measured), `metrics` (figures), `forward` (the reference, and running freely),
`measuring` (the three views), `running` (the loop), `parts` and `identity` (a folder that can be taken up),
`result`, and what is told of it: `tables`, `remarks`, `files`, `plots`, `report`. Not here: errors of tensors
without a model, which are `dsv3_numerics.study`.

Examples
--------
>>> from dsv3_numerics import attribution
>>> from dsv3_numerics.model import Recipe
>>> found = attribution.run(attribution.demo_model(), [3, 1, 4], Recipe(cache="bfloat16"), nudges=0)
>>> found.choices
['cache']
"""

from .metrics import Errors, Spread, divergence, other_experts, row_errors, same_top
from .result import COLUMNS, Attribution, Chance, Cost, Seen
from .running import (
    RANDOM,
    RANDOM_MODEL,
    TOKENS,
    Prepared,
    Progress,
    demo_model,
    fill,
    prepare,
    random_ids,
    run,
)
from .variants import PARTS, Variant, variants

__all__ = [
    "COLUMNS",
    "PARTS",
    "RANDOM",
    "RANDOM_MODEL",
    "TOKENS",
    "Attribution",
    "Chance",
    "Cost",
    "Errors",
    "Prepared",
    "Progress",
    "Seen",
    "Spread",
    "Variant",
    "demo_model",
    "divergence",
    "fill",
    "other_experts",
    "prepare",
    "random_ids",
    "row_errors",
    "run",
    "same_top",
    "variants",
]
