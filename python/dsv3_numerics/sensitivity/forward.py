"""Forwards layer by layer: the float64 reference, and a variant running freely.

The loop over layers is here, and not `Model.forward`, since an analysis keeps what goes into each layer,
perturbs embeddings, and wants to be interrupted between layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from .._arrays import Array
from ..model import Model, Recipe
from ..model.layer import Trace
from .variant import Variant

FLOAT64 = Recipe()

SHARE = 0.125
"""Fraction of channels perturbed for the noise floor; large enough to decorrelate every later rounding."""

Step = Callable[[], None]
"""Called after each layer."""

Perturbation = Callable[[Array], Array]

Experts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ForwardRun:
    """States, experts and logits of a forward.

    Attributes
    ----------
    states : list of ndarray, each of shape (batch, tokens, hidden_size)
        What goes into each layer, and what comes out of the last.
    experts : dict of int to ndarray of int64, shape (batch, tokens, experts per token)
        The experts chosen, by layer; dense layers have none.
    logits : ndarray of float64, shape (batch, tokens, vocab_size)
    """

    states: list[Array]
    experts: dict[int, Experts]
    logits: Array


def free_running(
    model: Model,
    ids: npt.NDArray[np.int64],
    recipe: Recipe,
    absorbed: bool,
    perturbation: Perturbation | None,
    step: Step,
) -> ForwardRun:
    """Return a whole forward under a recipe: every layer on what the one before made."""
    x = model.embed(ids, recipe=recipe)
    if perturbation is not None:
        x = perturbation(x)
    states, experts = [x], {}
    for layer in range(len(model.layers)):
        x, chosen = through(model, layer, x, recipe, absorbed)
        states.append(x)
        if chosen is not None:
            experts[layer] = chosen
        step()
    logits = model.head(model.norm(x, recipe=recipe), recipe=recipe)
    return ForwardRun(states, experts, np.asarray(logits, np.float64))


def through(
    model: Model, layer: int, x: Array, recipe: Recipe, absorbed: bool
) -> tuple[Array, Experts | None]:
    """One layer on an input: its output, and the experts that it chose if it has such.

    Raises
    ------
    ValueError
        The output is not finite.
    """
    trace = Trace(frozenset(["topk_idx"]))
    try:
        out = model.layers[layer](x, absorbed=absorbed, recipe=recipe, trace=trace)
    except ValueError as error:
        raise ValueError(f"layer {layer}, recipe {recipe.name}: {error}") from error
    if not np.isfinite(out).all():
        raise ValueError(f"layer {layer}, recipe {recipe.name}: its output is not finite")
    return out, trace.found.get("topk_idx")


def perturbed(x: Array, seed: int, compute: str, share: float) -> Array:
    """Embeddings with some channels moved by one last place, up or down: the least that can be changed.

    Parameters
    ----------
    x : ndarray, shape (batch, tokens, hidden_size)
    seed : int
        Of the channels.
    compute : str
        Whose last place: ``bf16`` or ``float32``. That of float64 counts as float32's, since its own is
        lost in any other format.
    share : float
        Of the channels, about; 0: one channel of each token.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.sensitivity.forward import perturbed
    >>> perturbed(np.ones((1, 1)), 0, "bf16", 0)
    array([[1.0078125]])
    """
    rng = np.random.default_rng([seed, x.shape[-1]])
    moved = rng.random(x.shape) < share
    if not share:
        np.put_along_axis(moved, rng.integers(x.shape[-1], size=x.shape[:-1])[..., None], True, axis=-1)
    place = np.ldexp(1.0, np.frexp(x)[1] - (8 if compute == "bf16" else 24))
    by = np.where(moved & (x != 0), place * rng.choice([-1, 1], x.shape), 0)
    return (x + by).astype(x.dtype)


class Subject:
    """A model and its ids, with the forwards that others are compared with.

    Parameters
    ----------
    model : Model
    ids : ndarray of int64, shape (batch, tokens)
    recipe : Recipe
        Whose choices are looked at.
    absorbed : bool
        The form of attention.
    """

    def __init__(
        self, model: Model, ids: npt.NDArray[np.int64], recipe: Recipe, absorbed: bool = False
    ) -> None:
        self.model, self.ids, self.recipe, self.absorbed = model, ids, recipe, absorbed
        self._kept: dict[Recipe, ForwardRun] = {}

    def reference(self) -> ForwardRun:
        """Return the forward in float64; made once."""
        return self.run(Variant("float64", "float64", "", FLOAT64, self.absorbed))

    def run(self, variant: Variant, step: Step = lambda: None) -> ForwardRun:
        """Return the forward of a variant; that of the recipe itself, and of float64, are made once."""
        key, form = variant.recipe, variant.absorbed
        if variant.perturbation:
            # float64 is perturbed as the recipe is, by the last place of the recipe's compute dtype
            share = SHARE if variant.role == "perturbed" else 0.0
            seed = variant.perturbation
            perturbation = partial(perturbed, seed=seed, compute=self.recipe.compute, share=share)
            return free_running(self.model, self.ids, key, form, perturbation, step)
        if key not in (FLOAT64, self.recipe) or form != self.absorbed:
            return free_running(self.model, self.ids, key, form, None, step)
        if key not in self._kept:
            self._kept[key] = free_running(self.model, self.ids, key, form, None, step)
        return self._kept[key]
