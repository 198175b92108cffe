"""Records of a forward's operations as tensors: results, and the codes and scales that products took.

Lives here: `Recorder`, a hook.
"""

from __future__ import annotations

import numpy as np

from .._arrays import Array
from ..gemm import matmul_nt
from ..model.fields import NONE
from ..model.projections import products_of
from ..model.recipe import Recipe
from ..model.records import OpRecord
from ..model.weights import Weights
from ..quantized import SCALE_DTYPES, Quantized
from ..schemes import Scaled, quantize
from .partial_sums import partial_sums
from .tensors import Tensor, Tensors, coded, operand


class Recorder:
    """Hook that keeps what operations give, and what linear layers are given where they take codes.

    Parameters
    ----------
    recipe : Recipe
    prefix : str
        Of the operations' names; what follows it names the tensors.
    weights : Weights, optional
        Those of the part that runs: partial sums of its linear layers are kept too.

    Attributes
    ----------
    found : dict of str to Tensor
        By the names of operations, without the prefix.
    """

    def __init__(self, recipe: Recipe, prefix: str = "", weights: Weights | None = None) -> None:
        self.recipe, self.prefix, self.weights = recipe, prefix, weights
        self.found: Tensors = {}

    def __call__(self, record: OpRecord) -> None:
        """Keep one operation."""
        name, kind, told = record.operation
        name = name.removeprefix(self.prefix)
        if kind == "linear":
            self.found |= self._operand(name, record.inputs)
        self.found[f"{name}.out"] = Tensor(np.array(record.output), f"result of {kind} {name}: {told}")

    def _operand(self, name: str, inputs: tuple[Array, ...]) -> Tensors:
        dispatched = len(inputs) == 2
        scheme = self.recipe.activation_scheme(dispatched=dispatched)
        if not isinstance(scheme, Scaled):
            return {}
        told = f"what {name} multiplies"
        if not dispatched:
            held = quantize(inputs[0].reshape(-1, inputs[0].shape[-1]), scheme)
            return {**operand(held, f"{name}.x", told), **self._sums(name, held)}
        codes, scales = inputs
        if scales.dtype != SCALE_DTYPES[scheme.scale] or scheme.scale == "nvfp4":
            return {
                f"{name}.x_codes": coded(codes, scheme.format, told),
                f"{name}.x_scales": Tensor(scales, "scales of each row and group; without the global scale"),
            }
        tile = scheme.group_k or codes.shape[-1]
        q = Quantized(codes, scales, scheme.format, (tile,), axis=1, scale_kind=scheme.scale)
        return {**operand(q, f"{name}.x", told), **self._sums(name, q)}

    def _sums(self, name: str, x: Quantized) -> Tensors:
        """Partial sums of a linear layer, where its product is one of codes."""
        if self.weights is None or self.recipe.accumulator == NONE:
            return {}
        keys = [f"{under}{self.prefix}{name}.weight" for under in ("", "self_attn.", "mlp.")]
        key = next((key for key in keys if key in self.weights), None)
        if key is None:
            return {}
        w = self.weights.operand(key, products_of(self.recipe).use)
        sums = partial_sums(x, w, matmul_nt, self.recipe.accumulator, self.recipe.promote_every)
        return {f"{name}.{which}": tensor for which, tensor in sums.items()}
