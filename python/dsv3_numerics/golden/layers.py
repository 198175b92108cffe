"""Golden vectors of the model's parts: gate, expert, attention, a layer, a whole forward.

Lives here: what each operation is given and gives, under any recipe, in the arithmetic of `canonical`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import Array
from ..model.activations import as_numbers
from ..model.attention import MLA
from ..model.block import Block
from ..model.cache import Cache
from ..model.experts import Gate, MoE, swiglu
from ..model.fitting import is_quantized
from ..model.layer import Trace
from ..model.model import Model
from ..model.projections import products_of
from ..model.recipe import Recipe
from ..model.weights import Weights
from ..number_formats import format_info
from ..schemes import quantize
from ..schemes.logarithmic import DeepEPLog, LogTiles
from .canonical import Canonical
from .elementary import sigmoid
from .held_models import held_model, writes_weights
from .inputs import Given, random_ids
from .recording import Recorder
from .sources import model_ids
from .tensors import Tensor, Tensors, operand

RECORDS = ("results", "operations")


def recipe_of(arguments: dict[str, Any]) -> Recipe:
    """Return the recipe of an operation's arguments: a preset's name, or a JSON object."""
    word = arguments["recipe"]
    return Recipe.from_json(word) if word.startswith("{") else Recipe.preset(word)


def weight_tensors(weights: Weights, recipe: Recipe, names: list[str] | None = None) -> Tensors:
    """Write weights as products take them: codes with scales in the kernel's layout, or numbers."""
    out: Tensors = {}
    for name in weights if names is None else names:
        held = weights.given(name)
        if _is_product(name, recipe):
            held = weights.operand(name, products_of(recipe).use)
        out |= operand(held, f"weights.{name}", f"weight {name}")
    return out


def _is_product(name: str, recipe: Recipe) -> bool:
    return not recipe.weights.is_identity and is_quantized(name)


def _hidden(model: Model, arguments: dict[str, Any], given: Given, trace: str, tokens: int) -> Array:
    """Return a part's inputs (tokens, channels): drawn, or those of the model as it reads."""
    width = model.config.hidden_size
    if given.case != "real":
        return given.draw(tokens, width, 128, format_info("float8_e4m3fn"))
    layer = arguments["layer"]
    ids = model_ids(arguments["model"], model.config, tokens)[None]
    name = f"layer{layer}.{trace}"
    found = model.trace(ids, [name], recipe=Canonical("float32"))[name]
    return found.reshape(-1, width)


def _layer(model: Model, arguments: dict[str, Any], *, moe: bool = False) -> Block:
    index = arguments["layer"]
    if not 0 <= index < len(model.layers):
        raise ValueError(f"layer: found {index}, expected 0 to {len(model.layers) - 1}")
    found: Block = model.layers[index]
    if moe and not isinstance(found.ffn, MoE):
        first = model.config.first_k_dense_replace
        raise ValueError(f"layer: found {index}, which is dense, expected {first} or above, with experts")
    return found


def _checked(weights: Weights, recipe: Recipe) -> None:
    weights.check_fit(recipe)


# --- Gate ---------------------------------------------------------------------------------------------------


def gate(arguments: dict[str, Any], given: Given) -> Tensors:
    """Choose experts: logits, scores, the choice of groups and experts, weights."""
    model, recipe = held_model(arguments["model"], given.set_seed), recipe_of(arguments)
    moe = _layer(model, arguments, moe=True).ffn
    assert isinstance(moe, MoE)
    config, held = model.config, moe.gate.weights
    matrix = np.asarray(held.given("weight"))
    bias = np.array(held.given("e_score_correction_bias"), np.float32) if config.has_gate_bias else None
    experts = config.n_routed_experts
    if given.case == "gate_ties":
        matrix = np.repeat(matrix[::2], 2, axis=0)[:experts]
        bias = None if bias is None else np.repeat(bias[::2], 2)[:experts]
    elif given.case == "gate_bias" and bias is not None:
        bias = bias + np.where(np.arange(experts) % 4 == 1, np.float32(0.5), np.float32(0))
    elif given.case == "gate_negative" and bias is not None:
        bias = bias - np.float32(2)
    tensors: dict[str, Array] = {"weight": matrix}
    if bias is not None:
        tensors["e_score_correction_bias"] = bias
    layer = Gate(config, tensors)
    x = as_numbers(_hidden(model, arguments, given, "ffn_norm", arguments["tokens"]), recipe)
    routing = layer(x, recipe=Canonical(recipe))
    out = {
        "x": Tensor(x, "normalised hidden states (tokens, channels)"),
        "weight": Tensor(matrix, "gate.weight (experts, channels)"),
    }
    if bias is not None:
        out["bias"] = Tensor(bias, "gate.e_score_correction_bias: takes part in the choice alone")
    own = Recipe(compute=recipe.compute if recipe.gate == "none" else recipe.gate)
    if config.scoring_func == "sigmoid":
        wide = sigmoid(routing.logits).astype(own.dtype)
        out["scores"] = Tensor(as_numbers(wide, own), "sigmoid of the logits, rounded to the gate's dtype")
    return {
        **out,
        "logits": Tensor(routing.logits, "x @ weight.T"),
        "indices": Tensor(routing.indices, "experts by descending biased score, lower index first"),
        "weights": Tensor(routing.weights, "unbiased scores, normalised and scaled"),
        "gap": Tensor(routing.gap, "how far the choice is from flipping: where it is tiny, a tie"),
    }


# --- Expert -------------------------------------------------------------------------------------------------


def expert(arguments: dict[str, Any], given: Given) -> Tensors:
    """Run tokens through one expert, from dispatch to what combine reads."""
    model, recipe = held_model(arguments["model"], given.set_seed), recipe_of(arguments)
    moe = _layer(model, arguments, moe=True).ffn
    assert isinstance(moe, MoE)
    _checked(moe.weights, recipe)
    x = as_numbers(_hidden(model, arguments, given, "ffn_norm", arguments["tokens"]), recipe)
    prefix = f"experts.{_expert(model, arguments)}."
    recorder = Recorder(recipe, prefix, moe.weights if arguments["sums"] else None)
    ops = Canonical(recipe, recorder)
    sent = ops.dispatch("dispatch", x)
    y = swiglu(ops, sent, moe.weights, prefix, "", dispatched=True)
    out = {"x": Tensor(x, "normalised hidden states (tokens, channels)"), **recorder.found}
    scheme = recipe.scheme("dispatch")
    if scheme.is_quantized:
        out |= operand(quantize(x, scheme), "dispatch", "tokens as they are sent")
    out["y"] = Tensor(y, "the expert's output")
    combine = recipe.scheme("combine")
    if not combine.is_identity:
        held = quantize(y, combine) if combine.is_quantized or _logarithmic(combine) else None
        if held is not None:
            out |= operand(held, "combine", "outputs as they are sent back")
        out["combine.out"] = Tensor(combine.read_back(y), f"outputs as they are received, in {combine}")
    return out


def _logarithmic(scheme: Any) -> bool:
    return isinstance(scheme, (LogTiles, DeepEPLog))


def _expert(model: Model, arguments: dict[str, Any]) -> int:
    index = int(arguments["expert"])
    if not 0 <= index < model.config.n_routed_experts:
        raise ValueError(f"expert: found {index}, expected 0 to {model.config.n_routed_experts - 1}")
    return index


def expert_weights(arguments: dict[str, Any], seed: int) -> Tensors:
    """Write the expert's matrices."""
    model, recipe = held_model(arguments["model"], seed), recipe_of(arguments)
    weights = _layer(model, arguments, moe=True).ffn.weights.under(f"experts.{_expert(model, arguments)}.")
    return weight_tensors(weights, recipe) if writes_weights(arguments["model"], weights) else {}


# --- Attention and layer ------------------------------------------------------------------------------------


def _filled(
    part: MLA | Block, model: Model, arguments: dict[str, Any], x: Array, recipe: Recipe
) -> tuple[Cache, Array]:
    """Return a cache that holds the first tokens of x (batch, past + new, channels), and the new tokens.

    Sequences are of unlike lengths: every second one holds three quarters.
    """
    past, new = arguments["past"], arguments["tokens"]
    kept = {"dtype": recipe.cache_scheme, "index_dtype": recipe.index_scheme}
    cache = Cache(model.config, len(x), max(past + new, 1), layers=1, **kept)
    if past:
        ops = Canonical(recipe)
        if isinstance(part, Block):
            part(x[:, :past], cache, cache_layer=0, absorbed=False, recipe=ops)
        else:
            part(x[:, :past], cache, layer=0, absorbed=False, recipe=ops)
        cache.lengths[:] = [past if i % 2 == 0 else max(3 * past // 4, 1) for i in range(len(x))]
        for row, length in zip(cache.data[0], cache.lengths.tolist(), strict=True):
            row[length:] = np.zeros_like(row[length:])
        if cache.index_keys is not None:
            for row, length in zip(cache.index_keys[0], cache.lengths.tolist(), strict=True):
                row[length:] = np.zeros_like(row[length:])
    return cache, np.ascontiguousarray(x[:, past:])


def _cache_tensors(cache: Cache, name: str, when: str) -> Tensors:
    told = f"the cache {when} (batch, positions, numbers or bytes of a token), in {cache.format.name}"
    out = {f"{name}": Tensor(cache.data[0].copy(), told)}
    out[f"{name}_lengths"] = Tensor(cache.lengths.copy(), f"tokens that each sequence holds {when}")
    if cache.index_keys is not None:
        out[f"{name}_index_keys"] = Tensor(cache.index_keys[0].copy(), f"the indexer's keys {when}")
    return out


def attention(arguments: dict[str, Any], given: Given) -> Tensors:
    """Attend: prefill without `past`, decode with one, over a cache in the recipe's format."""
    return _through(arguments, given, "attn_norm")


def layer(arguments: dict[str, Any], given: Given) -> Tensors:
    """Run a whole layer on its input."""
    return _through(arguments, given, "input")


def _through(arguments: dict[str, Any], given: Given, entry: str) -> Tensors:
    model, recipe = held_model(arguments["model"], given.set_seed), recipe_of(arguments)
    block = _layer(model, arguments)
    part: Any = block.attention if entry == "attn_norm" else block
    _checked(part.weights, recipe)
    batch, past, new = (arguments[name] for name in ("batch", "past", "tokens"))
    x = _hidden(model, arguments, given, entry, batch * (past + new))
    x = as_numbers(x.reshape(batch, past + new, -1), recipe)
    cache, fresh = _filled(part, model, arguments, x, recipe)
    out = {"x": Tensor(fresh, "input of the new tokens (batch, tokens, channels)")}
    out |= _cache_tensors(cache, "cache", "before")
    recorder = Recorder(recipe, weights=part.weights if arguments["sums"] else None)
    hook = recorder if arguments["record"] == "operations" else None
    at = f"layer{block.layer}."
    names = [name.removeprefix(at) for name in model.trace_names() if name.startswith(at)]
    trace = Trace(frozenset(names))
    place = {"layer": 0} if part is block.attention else {"cache_layer": 0}
    absorbed = arguments["absorbed"]
    y = part(fresh, cache, **place, absorbed=absorbed, recipe=Canonical(recipe, hook), trace=trace)
    cache.lengths += new
    out |= _cache_tensors(cache, "cache_after", "after")
    skipped = {"input", "output", "attn_out"} if entry == "input" else {"attn_norm"}
    for name, value in trace.found.items():
        if name not in skipped:
            out[name] = Tensor(_flags(value), f"intermediate {name}, as traces of the model name it")
    out |= recorder.found
    return {**out, "out": Tensor(y, "result (batch, tokens, channels)")}


def _flags(x: Array) -> Array:
    return x.astype(np.uint8) if x.dtype == np.bool_ else np.ascontiguousarray(x)


def attention_weights(arguments: dict[str, Any], seed: int) -> Tensors:
    """Write the matrices of a layer's attention."""
    model, recipe = held_model(arguments["model"], seed), recipe_of(arguments)
    weights = _layer(model, arguments).attention.weights
    return weight_tensors(weights, recipe) if writes_weights(arguments["model"], weights) else {}


def layer_weights(arguments: dict[str, Any], seed: int) -> Tensors:
    """Write all tensors of a layer."""
    model, recipe = held_model(arguments["model"], seed), recipe_of(arguments)
    weights = _layer(model, arguments).weights
    return weight_tensors(weights, recipe) if writes_weights(arguments["model"], weights) else {}


# --- Forward ------------------------------------------------------------------------------------------------


def forward(arguments: dict[str, Any], given: Given) -> Tensors:
    """Run the whole model on token ids: logits, and each layer's input."""
    model, recipe = held_model(arguments["model"], given.set_seed), recipe_of(arguments)
    batch, tokens = arguments["batch"], arguments["tokens"]
    if given.case == "real":
        ids = model_ids(arguments["model"], model.config, batch * tokens).reshape(batch, tokens)
    elif given.case == "repeated":
        ids = np.full((batch, tokens), given.seed % model.config.vocab_size, np.int64)
    else:
        ids = random_ids((batch, tokens), model.config.vocab_size, given.seed)
    recorder = Recorder(recipe)
    hook = recorder if arguments["record"] == "operations" else None
    model.weights.check_fit(recipe)
    layers = range(len(model.layers))
    names = [f"layer{i}.input" for i in layers] + ["final_norm", "logits"]
    if arguments["record"] == "operations":
        names = [name for name in model.trace_names() if not name.endswith("probs")]
    found = model.trace(ids, names, recipe=Canonical(recipe, hook), absorbed=arguments["absorbed"])
    out = {"ids": Tensor(ids, "token ids (batch, tokens)")}
    for name in names:
        if name in found:
            out[name] = Tensor(_flags(found[name]), f"{name}, as traces of the model name it")
    return {**out, **recorder.found}
