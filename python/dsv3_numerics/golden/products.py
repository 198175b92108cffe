"""Golden vectors of products: plain, grouped, masked, and the three of training.

Lives here: operands, shapes and results; the sums on the way are `partial_sums`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from .._arrays import Array
from ..accumulator import accumulator_info
from ..gemm import matmul_nt
from ..grouped import matmul_contiguous_nt, matmul_k_grouped_nt, matmul_masked_nt
from ..number_formats import format_info
from ..quant import quantize_blocks, quantize_tiles
from ..quantized import Quantized
from ..training import LinearRecipe
from .elementary import product as in_order
from .inputs import Draw, Given
from .partial_sums import Multiply, cut, partial_sums
from .tensors import Tensor, Tensors, operand, parts

OUTPUTS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EXPERTS = 3
_INDICES = (0, 1, -1, 2)


def quantized(x: Array, arguments: dict[str, Any], block: tuple[int, int]) -> Quantized:
    """Quantize a matrix in blocks as the arguments of an operation say."""
    options: dict[str, Any] = {"scale": arguments["scale"], "fmt": arguments["fmt"]}
    options["rule"] = arguments["rule"]
    options["nonfinite"] = "propagate" if not np.isfinite(x).all() else "raise"
    if block[0] == 1:
        return quantize_tiles(x, tile=block[1], **options)
    return quantize_blocks(x, block=block, **options)


def product(arguments: dict[str, Any], given: Given) -> Tensors:
    """Make operands and products ``a @ b.T``, of one matrix, or of one for each expert."""
    draw, unit = given.draw, accumulator_info(arguments["unit"]).name
    info, block, b_block = format_info(arguments["fmt"]), arguments["block"], arguments["b_block"]
    m, n, k = (arguments[name] for name in "mnk")
    grouped = arguments["grouped"]
    experts = 1 if grouped == "none" else EXPERTS
    rows = m * experts if grouped == "masked" else m
    a = quantized(draw(rows, k, block[1], info), arguments, (1, block[1]))
    b = _matrices(draw(experts * n, k, b_block[1], info, 1000), arguments, experts)
    out: Tensors = {}
    multiply: Multiply = matmul_nt
    told = "a @ b.T"
    if grouped == "contiguous":
        indices = np.repeat(np.array(_INDICES, np.int32), -(-m // len(_INDICES)))[:m]
        out["m_indices"] = Tensor(indices, "matrix of each row; -1 is padding, which is not read")
        told = "each row of a times the matrix of b that m_indices names; zero where it names none"
        multiply = _with(matmul_contiguous_nt, indices)
    elif grouped == "masked":
        a = _buffers(a, experts)
        counts = np.array([min(5, m), 0, m], np.int32)
        out["masked_m"] = Tensor(counts, "rows of each expert's buffer that count")
        told = "(experts, rows, n): each buffer times its matrix; rows beyond masked_m are zero"
        multiply = _with(matmul_masked_nt, counts)
    every, layout = arguments["promote_every"], arguments["layout"]
    dtype = OUTPUTS[arguments["output"]]
    d = multiply(a, b, accumulator=unit, promote_every=every, dtype=dtype)
    sides = {**parts(a, layout, "a_", "codes of a"), **parts(b, layout, "b_", "codes of b")}
    return {**sides, **out, "d": Tensor(d, told), **partial_sums(a, b, multiply, unit, every)}


def _with(multiply: Multiply, groups: Array) -> Multiply:
    return lambda a, b, **options: multiply(a, b, groups, **options)


def _matrices(x: Array, arguments: dict[str, Any], count: int) -> Quantized:
    """Quantize one matrix, or several that stand one after another, which no block may hold two of."""
    block = arguments["b_block"]
    if count == 1 or block[0] == 1:
        q = quantized(x, arguments, block)
        return q if count == 1 else _buffers(q, count)
    each = [quantized(part, arguments, block) for part in np.split(x, count)]
    codes, scales = (np.stack([getattr(q, name) for q in each]) for name in ("codes", "scales"))
    return replace(each[0], codes=codes, scales=scales)


def _buffers(q: Quantized, count: int) -> Quantized:
    """Take tiles of rows as those of several matrices, one after another."""
    rows = len(q.codes) // count
    codes, scales = (x.reshape(count, rows, -1) for x in (q.codes, q.scales))
    return replace(q, codes=codes, scales=scales, axis=2)


def fprop(arguments: dict[str, Any], given: Given) -> Tensors:
    """Make ``y = x @ w.T``."""
    recipe = LinearRecipe.of(arguments["recipe"])
    x, w = _numbers(given.draw, arguments["tokens"], arguments["k"]), _weights(given.draw, arguments)
    a, b = recipe.quantize_activations(x), recipe.quantize_weights(w)
    numbers = {"x": Tensor(x, "activations (tokens, in)"), "w": Tensor(w, "weight (out, in)")}
    sides = {**operand(a, "x", "x"), **operand(b, "w", "w")}
    return {**numbers, **sides, **_product(recipe, a, b, "y", "x @ w.T")}


def dgrad(arguments: dict[str, Any], given: Given) -> Tensors:
    """Make ``dx = dy @ w``."""
    recipe = LinearRecipe.of(arguments["recipe"])
    dy, w = _numbers(given.draw, arguments["tokens"], arguments["n"]), _weights(given.draw, arguments)
    a, b = recipe.quantize_gradients(dy), recipe.weight_columns(w).T
    numbers = {"dy": Tensor(dy, "gradients (tokens, out)"), "w": Tensor(w, "weight (out, in)")}
    sides = {**operand(a, "dy", "dy"), **operand(b, "wt", "w transposed, (in, out): the same blocks")}
    return {**numbers, **sides, **_product(recipe, a, b, "dx", "dy @ w")}


def _product(recipe: LinearRecipe, a: Any, b: Any, name: str, told: str) -> Tensors:
    """Return a training product of the recipe's output dtype, and its partial sums."""
    return {name: Tensor(_multiplied(recipe, a, b, recipe.output_dtype), told), **_sums(a, b, recipe)}


def wgrad(arguments: dict[str, Any], given: Given) -> Tensors:
    """Make ``dw = dy.T @ x`` over all tokens, or over those of each expert."""
    draw, recipe = given.draw, LinearRecipe.of(arguments["recipe"])
    tokens = sum(arguments["ks"])
    dy, x = _numbers(draw, tokens, arguments["n"]), _numbers(draw, tokens, arguments["k"], 1)
    a, b = recipe.gradient_columns(dy).T, recipe.activation_columns(x).T
    out = {
        "dy": Tensor(dy, "gradients (tokens, out)"),
        "x": Tensor(x, "activations (tokens, in)"),
        **operand(a, "dyt", "dy transposed, (out, tokens), in tiles of tokens"),
        **operand(b, "xt", "x transposed, (in, tokens), regrouped from tiles of a row"),
    }
    ks = np.array(arguments["ks"], np.int32)
    if len(ks) == 1:
        dw = _multiplied(recipe, a, b, recipe.gradient_dtype)
        return {**out, "dw": Tensor(dw, "dy.T @ x, (out, in)"), **_sums(a, b, recipe)}
    out["ks"] = Tensor(ks, "tokens of each expert, which stand one after another")
    if recipe.accumulator == "float64":
        raise ValueError(
            "ks: found several with recipe float64, expected one: no grouped product takes float64"
        )
    dw = matmul_k_grouped_nt(a, b, ks, accumulator=recipe.accumulator, promote_every=recipe.promote_every)
    out["dw"] = Tensor(dw, "(experts, out, in): dy.T @ x over the tokens of each expert")
    start = 0
    for expert, length in enumerate(ks.tolist()):
        left, right = (cut(side, start, start + length) for side in (a, b))
        sums = _sums(left, right, recipe) if length else {}
        out |= {f"expert{expert}.{name}": tensor for name, tensor in sums.items()}
        start += length
    return out


def _numbers(draw: Draw, rows: int, columns: int, more: int = 0) -> Array:
    return draw(rows, columns, 128, format_info("float8_e4m3fn"), 1000 * more)


def _weights(draw: Draw, arguments: dict[str, Any]) -> Array:
    return _numbers(draw, arguments["n"], arguments["k"], 1)


def _multiplied(recipe: LinearRecipe, a: Any, b: Any, dtype: Any) -> Array:
    """Return ``a @ b.T``; of float64 in the order of k, whatever BLAS there is."""
    return in_order(a, b) if recipe.accumulator == "float64" else recipe.product(a, b, dtype)


def _sums(a: Any, b: Any, recipe: LinearRecipe) -> Tensors:
    """Partial sums of a training product; none of float64, which no unit adds."""
    if recipe.accumulator == "float64":
        return {}
    return partial_sums(a, b, matmul_nt, recipe.accumulator, recipe.promote_every)
