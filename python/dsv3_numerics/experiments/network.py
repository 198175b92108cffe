"""A small network and its training, in any recipe: what the experiment ``fit`` fits.

SwiGLU experts in a row, each behind an RMSNorm and beside a residual stream, then a norm and a head with a
softmax. It learns what a random teacher says of random inputs; every batch is new, so that the loss is also
that of unseen data. As in DeepSeek-V3, the experts are in the recipe; head, norms, stream and loss are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..training import (
    ExpertRecipe,
    ExpertWeights,
    LinearRecipe,
    SavedActivations,
    dgrad,
    expert_backward,
    expert_forward,
    fprop,
    quantize_weights,
    wgrad,
)
from .experiment import RunConfig

Floats = NDArray[Any]

EPSILON = 1e-6
"""Epsilon of the norms."""


class Size(NamedTuple):
    """Sizes of a network and its training: `tokens` in each of `parts` micro-batches of a step."""

    hidden: int
    inner: int
    layers: int
    classes: int
    tokens: int
    parts: int
    steps: int


EXPERT, HEAD = ExpertRecipe(), LinearRecipe.preset("bf16")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes
    ----------
    expert, head : ExpertRecipe, LinearRecipe
        Of the layers and of the last product.
    numbers : dtype
        Of the stream, the norms' outputs and their gradients.
    master : dtype
        Of the weights that are updated, and of the sums of gradients.
    moments : dtype
        Of AdamW's.
    loss_scale : float
        What gradients are multiplied by, from the loss to the weights, where it is divided out.
    """

    expert: ExpertRecipe = EXPERT
    head: LinearRecipe = HEAD
    numbers: Any = ml_dtypes.bfloat16
    master: Any = np.float32
    moments: Any = ml_dtypes.bfloat16
    loss_scale: float = 1.0


class Optimizer(NamedTuple):
    """AdamW as in DeepSeek-V3 (technical report, 4.2), with a rate that rises, then falls as a cosine."""

    rate: float = 2e-3
    first: float = 0.9
    second: float = 0.95
    decay: float = 0.1
    epsilon: float = 1e-8
    warm: float = 0.05
    """Share of the steps in which the rate rises."""
    least: float = 0.1
    """Last rate over the highest."""

    def rate_at(self, step: int, steps: int) -> float:
        """Return the rate of a step, from 0."""
        rising = max(round(self.warm * steps), 1)
        if step < rising:
            return self.rate * (step + 1) / rising
        turn = math.cos(math.pi * (step - rising) / max(steps - rising, 1))
        return self.rate * (self.least + (1 - self.least) * (1 + turn) / 2)


@dataclass
class Task:
    """Inputs and labels: a random teacher's choice, drawn from its softmax, for each of some random inputs.

    Inputs are normal; what the network sees of them has channels of different size, one in 64 ten times as
    large, as activations have.
    """

    config: RunConfig
    size: Size
    seed: int
    loud: Floats = field(init=False)
    teacher: tuple[Floats, Floats] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.config.rng("fit", "teacher", self.seed)
        hidden, width = self.size.hidden, self.size.hidden // 2
        self.loud = np.exp(0.5 * rng.standard_normal(hidden))
        self.loud[rng.permutation(hidden)[: max(hidden // 64, 1)]] *= 10
        self.teacher = (
            rng.standard_normal((width, hidden)) * (2 / math.sqrt(hidden)),
            rng.standard_normal((self.size.classes, width)) * (4 / math.sqrt(width)),
        )

    def batch(self, tokens: int, *key: str | int) -> tuple[Floats, NDArray[np.intp]]:
        """Draw inputs, in bfloat16 precision, and labels; the same for the same key."""
        rng = self.config.rng("fit", self.seed, *key)
        z = rng.standard_normal((tokens, self.size.hidden))
        logits = np.tanh(z @ self.teacher[0].T) @ self.teacher[1].T
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        return (z * self.loud).astype(np.float32).astype(ml_dtypes.bfloat16), labels


Parameters = dict[str, Floats]
"""Weights, or what belongs to them, by name: ``0.gate``, ``0.up``, ``0.down``, ..., ``head``."""


def layer(parameters: Parameters, index: int) -> ExpertWeights:
    """Return those of one expert."""
    return ExpertWeights(*(parameters[f"{index}.{name}"] for name in ExpertWeights._fields))


def start(task: Task) -> Parameters:
    """Weights to start from, float64: normal, each layer's output half as large as its input."""
    rng, size = task.config.rng("fit", "start", task.seed), task.size
    found: Parameters = {}
    for i in range(size.layers):
        for name in ("gate", "up"):
            found[f"{i}.{name}"] = rng.standard_normal((size.inner, size.hidden)) / math.sqrt(size.hidden)
        found[f"{i}.down"] = rng.standard_normal((size.hidden, size.inner)) / math.sqrt(size.inner)
    found["head"] = rng.standard_normal((size.classes, size.hidden)) / math.sqrt(size.hidden)
    return {name: w * 0.5 for name, w in found.items()}


class Network:
    """Weights as the products take them, cast once per step, and passes through them."""

    def __init__(
        self, parameters: Parameters, layers: int, how: Training, rng: np.random.Generator | None = None
    ) -> None:
        self.how, self.rng = how, rng
        self.layers = [
            quantize_weights(layer(parameters, i), recipe=how.expert, seed=rng) for i in range(layers)
        ]
        self.head = how.head.quantize_weights(parameters["head"])

    def loss(self, x: Floats, labels: NDArray[np.intp]) -> float:
        """Return the mean cross entropy, in nats."""
        return self._forward(x, labels)[0]

    def gradients(
        self, x: Floats, labels: NDArray[np.intp], so_far: Parameters | None, share: float
    ) -> tuple[float, Parameters]:
        """Return the loss, and the gradients of `share` times it added to those so far."""
        how = self.how
        loss, probabilities, last, kept = self._forward(x, labels)
        probabilities[np.arange(len(labels)), labels] -= 1
        logits = self._round(probabilities * (share * how.loss_scale / len(labels)))
        found: Parameters = {}
        c = (lambda name: None) if so_far is None else so_far.__getitem__
        found["head"] = wgrad(logits, last.normal, c=c("head"), recipe=how.head)
        stream = self._round(last.backward(dgrad(logits, self.head, recipe=how.head)))
        for i in reversed(range(len(self.layers))):
            norm, saved = kept[i]
            c_layer = None if so_far is None else layer(so_far, i)
            weights = self.layers[i]
            got = expert_backward(stream, saved, weights, c=c_layer, recipe=how.expert, seed=self.rng)
            found |= {f"{i}.{name}": w for name, w in zip(ExpertWeights._fields, got.weights, strict=True)}
            through = self._round(norm.backward(got.x))
            stream = self._round(stream.astype(np.float64) + through.astype(np.float64))
        return loss, found

    def _forward(
        self, x: Floats, labels: NDArray[np.intp]
    ) -> tuple[float, Floats, Norm, list[tuple[Norm, SavedActivations]]]:
        stream, kept = x.astype(self.how.numbers), []
        for weights in self.layers:
            norm = Norm.of(stream, self.how.numbers)
            y, saved = expert_forward(norm.normal, weights, recipe=self.how.expert, seed=self.rng)
            stream = self._round(stream.astype(np.float64) + y.astype(np.float64))
            kept.append((norm, saved))
        last = Norm.of(stream, self.how.numbers)
        logits = fprop(last.normal, self.head, recipe=self.how.head).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        total = probabilities.sum(axis=1, keepdims=True)
        places = np.arange(len(labels)), labels
        loss = float(np.mean(np.log(total[:, 0]) - logits[places]))
        return loss, probabilities / total, last, kept

    def _round(self, x: Floats) -> Floats:
        return narrow(x, self.how.numbers)


class Norm(NamedTuple):
    """An RMSNorm without gains: its output, and what its backward needs."""

    normal: Floats
    inverse: Floats
    "1 over the root mean square of each row"

    @classmethod
    def of(cls, stream: Floats, numbers: Any) -> Norm:
        wide = stream.astype(np.float64)
        inverse = 1 / np.sqrt(np.mean(wide * wide, axis=1, keepdims=True) + EPSILON)
        return cls(narrow(wide * inverse, numbers), inverse)

    def backward(self, gradient: Floats) -> Floats:
        above, normal = gradient.astype(np.float64), self.normal.astype(np.float64)
        found: Floats = self.inverse * (above - normal * np.mean(above * normal, axis=1, keepdims=True))
        return found


def narrow(x: Floats, dtype: Any) -> Floats:
    """float64 rounded to float32 and from there to `dtype`, as kernels do that compute in float32."""
    return x if np.dtype(dtype) == np.float64 else x.astype(np.float32).astype(dtype)


class AdamW:
    """ExpertWeights in the master precision, and their moments."""

    def __init__(self, parameters: Parameters, how: Training, settings: Optimizer, steps: int) -> None:
        self.how, self.settings, self.steps = how, settings, steps
        self.weights = {name: w.astype(how.master) for name, w in parameters.items()}
        self.moments = {
            name: [np.zeros(w.shape, how.moments) for _ in "mv"] for name, w in parameters.items()
        }
        self.done = 0

    def update(self, gradients: Parameters) -> None:
        """One step."""
        s, number = self.settings, np.dtype(self.how.master).type
        rate = s.rate_at(self.done, self.steps)
        self.done += 1
        corrections = [1 - beta**self.done for beta in (s.first, s.second)]
        for name, w in self.weights.items():
            g = gradients[name].astype(self.how.master) / number(self.how.loss_scale)
            m, v = (moment.astype(self.how.master) for moment in self.moments[name])
            m = number(s.first) * m + number(1 - s.first) * g
            v = number(s.second) * v + number(1 - s.second) * g * g
            self.moments[name] = [m.astype(self.how.moments), v.astype(self.how.moments)]
            step = m / number(corrections[0]) / (np.sqrt(v / number(corrections[1])) + number(s.epsilon))
            self.weights[name] = w - number(rate) * (step + number(s.decay) * w)


def train(task: Task, how: Training, settings: Optimizer) -> Iterator[tuple[float, Parameters]]:
    """Yield the loss of each step, and the weights after it."""
    size = task.size
    rng = task.config.rng("fit", "rounding", task.seed)  # of recipes that round at random
    optimizer = AdamW(start(task), how, settings, size.steps)
    for step in range(size.steps):
        network = Network(optimizer.weights, size.layers, how, rng)
        losses, gradients = [], None
        for part in range(size.parts):
            x, labels = task.batch(size.tokens, "batch", step, part)
            loss, gradients = network.gradients(x, labels, gradients, 1 / size.parts)
            losses.append(loss)
        assert gradients is not None
        optimizer.update(gradients)
        yield sum(losses) / size.parts, optimizer.weights


FLOAT64 = Training(
    ExpertRecipe.preset("float64"), LinearRecipe.preset("float64"), np.float64, np.float64, np.float64
)
BFLOAT16 = Training(ExpertRecipe.preset("bf16"), moments=np.float32)
DEEPSEEK_V3 = Training()


def held_out(task: Task, weights: Parameters, tokens: int) -> float:
    """Return the loss on inputs that no batch had, in float64, whatever it was learned in."""
    return Network(weights, task.size.layers, FLOAT64).loss(*task.batch(tokens, "held out"))
