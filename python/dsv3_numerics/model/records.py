"""Record of an operation: its name, what went in, what came out, and how to run it again.

Lives here: the records that `operations` hands to a hook, and `Routing`, which a gate gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from .recipe import Recipe


class Operation(NamedTuple):
    """A step of the forward.

    Attributes
    ----------
    name : str
        In full: ``layer3.q_a_proj``, ``layer3.experts.17.gate_proj``, ``layer3.combine``, ``lm_head``. Names
        follow the checkpoint's.
    kind : str
        linear, norm, rotate, cache, attend, gate, dispatch, silu, combine, add, embed or head.
    description : str
        What the recipe makes of it.
    """

    name: str
    kind: str
    description: str


class OpRecord(NamedTuple):
    """Record of an operation that was done.

    Attributes
    ----------
    operation : Operation
    inputs : tuple of ndarray
        As they came in, read only: numbers; codes and scales for an expert's first products where it was
        sent codes.
    output : ndarray
        Numbers, read only. Of the gate (tokens, experts): the weights of those that were chosen, else zero.
        Of dispatch and cache: what is read back.
    replay : callable
        The same operation on the same inputs under another recipe.
    """

    operation: Operation
    inputs: tuple[Array, ...]
    output: Array
    replay: Callable[[Recipe], Array]


Hook = Callable[[OpRecord], None]
"""Called after each operation."""


class Routing(NamedTuple):
    """Where tokens go.

    Attributes
    ----------
    indices : ndarray of int64, shape (..., num_experts_per_tok)
        Experts by descending biased score; among equals the lower index comes first.
    weights : ndarray, shape (..., num_experts_per_tok)
        Unbiased scores of those experts, normalised and scaled.
    gap : ndarray, shape (...)
        How far the choice is from flipping: the least difference between what was taken and what was not,
        among the biased scores of experts and among those of groups. A token whose experts differ in another
        program though its gap is large points to a bug; a gap near the rounding error of that program is a
        tie.
    logits : ndarray, shape (..., n_routed_experts)
        Before the sigmoid.
    """

    indices: NDArray[np.int64]
    weights: Array
    gap: Array
    logits: Array
