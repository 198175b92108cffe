"""Cost of routing in a cluster: experts' load, nodes touched, and the bias that evens the load out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array
from .config import Config
from .records import Routing


@dataclass(frozen=True)
class Traffic:
    """How tokens spread over experts and nodes; see `traffic`.

    Attributes
    ----------
    load : ndarray of int64, shape (experts,)
        Tokens of each expert.
    nodes : ndarray of int64, shape (tokens,)
        Nodes that each token's experts are on.
    dispatched : int
        Copies of tokens that cross between nodes if each goes to each node once, all tokens counted.
    sent_to_experts : int
        The same if each goes to each of its experts on its own.
    """

    load: NDArray[np.int64]
    nodes: NDArray[np.int64]
    dispatched: int
    sent_to_experts: int

    @property
    def imbalance(self) -> float:
        """The heaviest load over the mean load; 1 is even."""
        return float(self.load.max() / self.load.mean()) if self.load.any() else float("nan")

    @property
    def saved(self) -> float:
        """The share of copies that sending to nodes instead of experts saves."""
        return 1 - self.dispatched / self.sent_to_experts if self.sent_to_experts else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.nodes.mean():.2f} nodes for a token (at most {self.nodes.max()}), "
            f"{self.dispatched} copies dispatched instead of {self.sent_to_experts}, "
            f"heaviest expert {self.imbalance:.2f} times the mean"
        )


def traffic(routing: Routing | ArrayLike, config: Config, *, nodes: int | None = None) -> Traffic:
    """Count what routed tokens ask of experts and of the network between nodes.

    Node-limited routing sends a token to at most ``topk_group`` nodes (4 in DeepSeek-V3), and once to each:
    of ``8 t`` transfers remain at most ``4 t`` (ISCA '25, section 4.3). Every copy is counted, also one to
    the token's own node, which the routing does not know.

    Parameters
    ----------
    routing : Routing, or array_like of int
        Or its `indices`, shape (..., num_experts_per_tok).
    config : Config
    nodes : int, optional
        Nodes that share the experts evenly, neighbours together; one for each group by default.

    Raises
    ------
    TypeError, ValueError
        Indices that are no integers, or out of range; nodes that do not divide the experts.

    Examples
    --------
    >>> from dsv3_numerics.model import Config, traffic
    >>> t = traffic([[0, 1, 2, 3, 32, 64, 96, 33]], Config.preset("deepseek_v3"))
    >>> t.nodes.tolist(), t.dispatched, t.sent_to_experts
    ([4], 4, 8)
    """
    indices = as_array(routing.indices if isinstance(routing, Routing) else routing, "routing")
    experts = config.n_routed_experts
    count = config.n_group if nodes is None else nodes
    if indices.dtype.kind not in "iu" or indices.ndim == 0:
        raise TypeError(
            f"routing: found {indices.dtype} of shape {indices.shape}, expected indices of experts"
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < experts):
        raise ValueError(f"routing: found {indices.min()} to {indices.max()}, expected 0 to {experts - 1}")
    if count < 1 or experts % count:
        raise ValueError(f"nodes: found {count}, expected a divisor of {experts} experts")
    flat = indices.reshape(-1, indices.shape[-1])
    touched = np.zeros((len(flat), count), bool)
    np.put_along_axis(touched, flat // (experts // count), True, axis=1)
    load = np.bincount(flat.reshape(-1), minlength=experts).astype(np.int64)
    return Traffic(load, touched.sum(axis=1), int(touched.sum()), int(flat.size))


def update_bias(bias: ArrayLike, load: ArrayLike, *, speed: float = 0.001) -> Array:
    """Return the next ``e_score_correction_bias``: up by `speed` where the load was below the mean.

    Source: technical report, section 2.1.2 (auxiliary-loss-free load balancing); its speed is 0.001.

    Parameters
    ----------
    bias : array_like of float32 or float64, shape (experts,)
    load : array_like, shape (experts,)
        Tokens of each expert over a step.

    Returns
    -------
    ndarray, dtype and shape of `bias`

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import update_bias
    >>> update_bias(np.zeros(3), [0, 2, 4], speed=0.5)
    array([ 0.5,  0. , -0.5])
    """
    current, counts = as_array(bias, "bias"), as_array(load, "load")
    if current.dtype not in (np.float32, np.float64):
        raise TypeError(f"bias: found dtype {current.dtype}, expected float32 or float64")
    if counts.shape != current.shape or current.ndim != 1:
        raise ValueError(f"load: found shape {counts.shape}, expected {current.shape}, as bias")
    step: Array = np.sign(counts.mean() - counts).astype(current.dtype)
    moved: Array = current + current.dtype.type(speed) * step
    return moved
