"""Two dumps of one model on the same tokens: layer by layer, experts, and next-token distributions.

Lives here: `compare_models` and its result. Figures and the measure of chance are those of `sensitivity`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array
from ..report.text import counted
from .names import canonical
from .sources import opened

if TYPE_CHECKING:
    from ..sensitivity.metrics import Spread

Source = str | os.PathLike[str] | Mapping[str, ArrayLike]
_LAYER = re.compile(r"^layers\.(\d+)$")


@dataclass
class LayerErrors:
    """Relative errors of what a layer gives on, token by token.

    Attributes
    ----------
    layer : int
    errors : Spread
        Norm of the difference over the norm of A's vector, for each token.
    floor : float or None
        Largest median that runs of the noise floor leave room for; None without such runs.
    """

    layer: int
    errors: Spread
    floor: float | None = None

    @property
    def leaves_floor(self) -> bool | None:
        """True: beyond the noise floor. None: there is none."""
        return None if self.floor is None else self.errors.median > self.floor


@dataclass
class ExpertSets:
    """Tokens of a layer that go to another set of experts.

    Attributes
    ----------
    layer, tokens, changed : int
    gap_changed, gap_kept : float or None
        Median routing gap in A (how much the last chosen expert leads the first that was not) of tokens whose
        set changed and of the others; None without gaps.
    wide : int or None
        Changed tokens whose gap is above the median gap of all: a small error does not explain those.
    """

    layer: int
    tokens: int
    changed: int
    gap_changed: float | None = None
    gap_kept: float | None = None
    wide: int | None = None


@dataclass
class ModelComparison:
    """Result of `compare_models`.

    Attributes
    ----------
    layers : list of LayerErrors
    experts : list of ExpertSets
    kl : Spread or None
        Kullback-Leibler divergence KL(A || B) of every token's next-token distribution, in nats.
    kl_tokens : list of float
        The same, token by token.
    same_top : float or None
        Share of tokens with the same likeliest next token.
    noise : dict
        Median divergences of the runs of the noise floor, their mean and prediction interval (99 %).
    missing : list of str
        What the dumps do not hold, and what therefore is not told.
    """

    layers: list[LayerErrors] = field(default_factory=list)
    experts: list[ExpertSets] = field(default_factory=list)
    kl: Spread | None = None
    kl_tokens: list[float] = field(default_factory=list)
    same_top: float | None = None
    noise: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def first_layer(self) -> int | None:
        """First layer that leaves the noise floor; None if none does, or there is no floor."""
        return next((one.layer for one in self.layers if one.leaves_floor), None)

    @property
    def verdict(self) -> str:
        """One sentence, against chance."""
        if self.kl is None:
            return "No logits on both sides: nothing is said of next tokens."
        told = f"Median divergence {self.kl.median:.4g} nats over {counted(self.kl.n, 'token')}"
        interval = self.noise.get("prediction_interval")
        if interval is None or not np.isfinite(interval):
            return f"{told}; no noise floor (give two perturbed runs or more), so nothing is said of chance."
        most = self.noise["mean"] + interval
        where = "beyond" if self.kl.median > most else "within"
        return f"{told}: {where} the noise floor (a run that differs by chance stays below {most:.4g}, 99 %)."

    def lines(self) -> list[str]:
        """Return the comparison as text."""
        out = [self.verdict]
        if self.kl is not None and self.same_top is not None:
            k = self.kl
            out.append(
                f"  KL per token: 5 % {k.p5:.4g}, median {k.median:.4g}, 95 % {k.p95:.4g}, "
                f"worst {k.worst:.4g}; same likeliest token {self.same_top:.1%}"
            )
        for one in self.layers:
            floor = "" if one.floor is None else f" (floor {one.floor:.3g})"
            mark = "  <- first beyond the noise floor" if one.layer == self.first_layer else ""
            e = one.errors
            out.append(f"  layer {one.layer}: error median {e.median:.3g}, worst {e.worst:.3g}{floor}{mark}")
        for sets in self.experts:
            gap = ""
            if sets.gap_changed is not None and sets.gap_kept is not None:
                gap = (
                    f"; routing gap {sets.gap_changed:.3g} where changed, {sets.gap_kept:.3g} elsewhere; "
                    f"{sets.wide} changed in spite of a wide gap"
                )
            out.append(
                f"  layer {sets.layer}: {sets.changed} of {counted(sets.tokens, 'token')} "
                f"go to other experts{gap}"
            )
        return out + [f"  not told: {text}" for text in self.missing]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "verdict": self.verdict,
            "first_layer": self.first_layer,
            "kl": self.kl._asdict() if self.kl else None,
            "kl_tokens": self.kl_tokens,
            "same_top": self.same_top,
            "noise": self.noise,
            "layers": [
                {"layer": one.layer, **one.errors._asdict(), "floor": one.floor, "leaves": one.leaves_floor}
                for one in self.layers
            ],
            "experts": [vars(one) for one in self.experts],
            "missing": self.missing,
        }


def compare_models(a: Source, b: Source, *, noise: Sequence[Source] = ()) -> ModelComparison:
    """Compare two dumps of one model on the same tokens.

    Parameters
    ----------
    a, b : path or mapping of str to array
        Dumps with outputs of layers, logits, chosen experts (``topk_idx``), routing gaps: traces of this
        package, or dumps of others, whose names are matched by table.
    noise : sequence of path or mapping
        Dumps of A's side that differ by chance alone (a last place of the embeddings, another order of
        sums): at least two make a noise floor.

    Returns
    -------
    ModelComparison

    Raises
    ------
    OSError, ValueError
        As for `compare`; tokens of another number.

    Examples
    --------
    >>> import numpy as np
    >>> a = {"layer0.output": np.ones((1, 2, 4), np.float32), "logits": np.eye(2, 4, dtype=np.float32)}
    >>> b = {"model.layers.0": np.full((2, 4), 1.5, np.float32), "lm_head": np.eye(2, 4, dtype=np.float32)}
    >>> found = compare_models(a, b)
    >>> found.layers[0].errors.median, found.kl.median, found.same_top
    (0.5, 0.0, 1.0)
    """
    with ExitStack() as stack:
        left, right, *others = (
            _Dump(stack.enter_context(opened(source, name)))
            for source, name in ((a, "a"), (b, "b"), *((one, "noise") for one in noise))
        )
        return _compared(left, right, others)


class _Dump:
    """Tensors by their one spelling, as rows of tokens."""

    def __init__(self, held: Mapping[str, Array]) -> None:
        self.held = held
        self.names: dict[str, str] = {}
        for name in held:
            self.names.setdefault(canonical(name), name)

    def rows(self, name: str) -> NDArray[Any] | None:
        """Return a tensor as (tokens, width)."""
        found = self.names.get(name)
        if found is None:
            return None
        array = np.asarray(self.held[found])
        return array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)


def _pair(name: str, a: _Dump, b: _Dump) -> tuple[Array, Array] | None:
    x, y = a.rows(name), b.rows(name)
    if x is None or y is None:
        return None
    if x.shape != y.shape:
        raise ValueError(f"b: found {name} of shape {y.shape}, expected {x.shape}, as in a")
    return (x, y) if x.dtype.kind in "iu" else (x.astype(np.float64), y.astype(np.float64))


def _compared(a: _Dump, b: _Dump, noise: list[_Dump]) -> ModelComparison:
    from ..sensitivity.metrics import Spread, divergence, prediction_interval, row_errors, same_top

    out = ModelComparison()
    layers = sorted(int(match[1]) for name in a.names if (match := _LAYER.match(name)))
    for layer in layers:
        pair = _pair(f"layers.{layer}", a, b)
        if pair is None:
            continue
        errors = Spread.of(row_errors(*pair).relative)
        medians = [
            Spread.of(row_errors(*other).relative).median
            for one in noise
            if (other := _pair(f"layers.{layer}", a, one)) is not None
        ]
        floor = float(np.mean(medians)) + prediction_interval(medians) if len(medians) > 1 else None
        out.layers.append(LayerErrors(layer, errors, floor))
    if not out.layers:
        out.missing.append("errors of layers (no outputs of layers on both sides)")
    elif len(noise) < 2:
        out.missing.append("which layer leaves the noise floor (fewer than two perturbed runs)")
    _experts(out, a, b)
    pair = _pair("lm_head", a, b)
    if pair is None:
        out.missing.append("divergence of next tokens (no logits on both sides)")
        return out
    kl = divergence(*pair)
    out.kl, out.kl_tokens = Spread.of(kl), [float(v) for v in kl]
    out.same_top = float(same_top(*pair).mean())
    medians = [
        Spread.of(divergence(*other)).median
        for one in noise
        if (other := _pair("lm_head", a, one)) is not None
    ]
    if medians:
        out.noise = {
            "medians": medians,
            "mean": float(np.mean(medians)),
            "prediction_interval": prediction_interval(medians),
        }
    return out


def _experts(out: ModelComparison, a: _Dump, b: _Dump) -> None:
    layers = sorted(
        int(name.split(".")[1])
        for name in a.names
        if name.startswith("layers.") and name.endswith(".topk_idx")
    )
    from ..sensitivity.metrics import other_experts

    told = 0
    for layer in layers:
        pair = _pair(f"layers.{layer}.topk_idx", a, b)
        if pair is None:
            continue
        told += 1
        changed = other_experts(pair[0].astype(np.int64), pair[1].astype(np.int64))
        one = ExpertSets(layer, len(changed), int(changed.sum()))
        found = a.names.get(f"layers.{layer}.routing_gap")
        if found is not None:
            gap = np.asarray(a.held[found], np.float64).reshape(-1)
            if len(gap) == len(changed):
                one.gap_changed = float(np.median(gap[changed])) if changed.any() else None
                one.gap_kept = float(np.median(gap[~changed])) if (~changed).any() else None
                one.wide = int((gap[changed] > np.median(gap)).sum())
        out.experts.append(one)
    if not told:
        out.missing.append("experts (no topk_idx on both sides)")
