"""Train ``tiny-austen`` by a plan, and keep its state every few minutes.

    python train.py plan.json novels.json run/

Everything is drawn from the plan's seed and the number of the step, so that a run that was stopped goes on as
if it had not been. The plan is read again every 25 steps: its later steps may be changed while it runs; the
plan that is kept beside the script is the one that was carried out.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optimizer
from model import Linear, Sizes, Weights, forward, initial, initial_biases, plain
from text import split

_BITS = 1 / np.log(2)
_COLUMNS = (
    *("step", "tokens", "seconds", "rate", "train", "mtp"),
    *("held_out", "mtp_right", "least_load", "most_load"),
)


@dataclass(frozen=True)
class Phase:
    """How the steps up to one of them are fed."""

    until: int
    "the step that ends it"
    batch: int
    "sequences"
    tokens: int
    "of a sequence"
    mtp: int
    "sequences that go through multi-token prediction"
    mtp_weight: float
    "of its loss beside the main one"


@dataclass(frozen=True)
class Plan:
    """Settings of a run, from its first step to its last."""

    seed: int
    rates: tuple[tuple[int, float], ...]
    "steps and the share of the full rates that they go at; in lines between them, from zero at the start"
    phases: tuple[Phase, ...]
    bias_speed: float
    "what a step adds to or takes from a gate's bias, at full rate"
    capacity: float | None
    "see `model.forward`"
    muon: float = 0.02
    adam: float = 4e-3
    sizes: Sizes = field(default_factory=Sizes)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan's file."""
        found = json.loads(path.read_text())
        found["phases"] = tuple(Phase(**phase) for phase in found["phases"])
        found["sizes"] = Sizes(**found.get("sizes", {}))
        return cls(**found)

    @property
    def steps(self) -> int:
        """The last step."""
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        """Source of a step's data."""
        return next(phase for phase in self.phases if step < phase.until)

    def rate(self, step: int) -> float:
        """The share of the full rates at a step."""
        steps, rates = zip((0, 0.0), *self.rates, strict=True)
        return float(np.interp(step + 1, steps, rates))


def sequences(text: np.ndarray, seed: int, step: int, phase: Phase) -> np.ndarray:
    """Draw the sequences of a step, each with two more bytes than it has tokens."""
    rng = np.random.default_rng([seed, step])
    begins = rng.integers(0, len(text) - phase.tokens - 2, size=phase.batch)
    return text[begins[:, None] + np.arange(phase.tokens + 2)]


def losses(
    w: Weights,
    biases: jax.Array,
    ids: jax.Array,
    mtp_weight: jax.Array,
    plan: Plan,
    mtp: int,
    linear: Linear = plain,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The loss that a step lowers, and: bits per byte, those of multi-token prediction, loads."""
    seen = forward(w, biases, ids[:, :-1], plan.sizes, mtp=mtp, capacity=plan.capacity, linear=linear)
    main = _cross_entropy(seen.logits, ids[:, 1:-1])
    after = _cross_entropy(seen.after, ids[:mtp, 2:]) if seen.after is not None else jnp.zeros(())
    return main + mtp_weight * after, (main * _BITS, after * _BITS, seen.loads)


def _cross_entropy(logits: jax.Array, ids: jax.Array) -> jax.Array:
    right = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - right).mean()


def stepper(plan: Plan, linear: Linear = plain):
    """The compiled step: weights, biases and optimizer's state in, the same and what was seen out."""
    rates = optimizer.Rates(muon=plan.muon, adam=plan.adam)

    @partial(jax.jit, static_argnames="mtp", donate_argnums=(0, 1, 2))
    def step(w, biases, state, ids, rate, mtp_weight, *, mtp):
        gradient = jax.grad(losses, has_aux=True)
        gradients, seen = gradient(w, biases, ids, mtp_weight, plan, mtp, linear)
        w, state = optimizer.update(w, gradients, state, rate, rates)
        loads = seen[-1].astype(jnp.float32)
        biases = biases + rate * plan.bias_speed * jnp.sign(loads.mean(axis=-1, keepdims=True) - loads)
        return w, biases, state, seen

    return step


def evaluator(sizes: Sizes, linear: Linear = plain):
    """The compiled sum of bits over windows of text, and how many bytes multi-token prediction gets right."""

    @jax.jit
    def bits(w, biases, ids):
        seen = forward(w, biases, ids[:, :-1], sizes, mtp=len(ids), linear=linear)
        hits = (seen.after.argmax(axis=-1) == ids[:, 2:]).mean()
        return _cross_entropy(seen.logits, ids[:, 1:-1]) * _BITS, hits

    def evaluate(w: Weights, biases: jax.Array, text: np.ndarray, tokens: int = 256) -> tuple[float, float]:
        windows = np.arange(0, len(text) - tokens - 2, tokens)
        windows = windows[: len(windows) // 16 * 16].reshape(-1, 16)
        found = [bits(w, biases, text[row[:, None] + np.arange(tokens + 2)]) for row in windows]
        both = np.mean(np.array(found, dtype=np.float64), axis=0)
        return float(both[0]), float(both[1])

    return evaluate


def keep(path: Path, what: object) -> None:
    """Write a state, so that the older one stands until the new one is whole."""
    new = path.with_suffix(".new")
    new.write_bytes(pickle.dumps(jax.tree.map(np.asarray, what)))
    os.replace(new, path)


def main(plan_path: Path, novels: Path, run: Path) -> None:
    """Carry a plan out."""
    run.mkdir(parents=True, exist_ok=True)
    training, held_out = (np.frombuffer(t, np.uint8) for t in split(json.loads(novels.read_text())))
    plan = Plan.read(plan_path)
    saved = run / "state.pickle"
    if saved.exists():
        number, seconds, tokens, w, biases, state = pickle.loads(saved.read_bytes())
        number, seconds, tokens = int(number), float(seconds), int(tokens)
        w, biases, state = jax.tree.map(jnp.asarray, (w, biases, state))
    else:
        number, seconds, tokens = 0, 0.0, 0
        w, biases = initial(plan.sizes, plan.seed), initial_biases(plan.sizes)
        state = optimizer.start(w)
    print(sum(x.size for x in w.values()), "parameters", flush=True)
    step, evaluate = stepper(plan), evaluator(plan.sizes)
    since, began, seen_bits, mtp_bits = time.time(), time.time() - seconds, [], []
    with open(run / "curve.csv", "a", newline="") as file:
        log = csv.writer(file)
        if not number:
            log.writerow(_COLUMNS)
        while number < plan.steps:
            phase = plan.phase(number)
            ids = sequences(training, plan.seed, number, phase)
            rate = plan.rate(number)
            w, biases, state, seen = step(w, biases, state, ids, rate, phase.mtp_weight, mtp=phase.mtp)
            number, tokens = number + 1, tokens + phase.batch * phase.tokens
            seen_bits.append(float(seen[0]))
            mtp_bits.append(float(seen[1]))
            if number % 25 and number < plan.steps:
                continue
            share = np.asarray(seen[2], np.float64)
            share = share / share.mean(axis=-1, keepdims=True)
            held = ("", "")
            if number % 250 == 0 or number == plan.steps:
                held = tuple(round(x, 4) for x in evaluate(w, biases, held_out[:60000]))
            if time.time() - since > 120 or number == plan.steps:
                keep(saved, (number, time.time() - began, tokens, w, biases, state))
                since = time.time()
            row = [number, tokens, round(time.time() - began, 1), round(rate, 4)]
            row += [round(float(np.mean(seen_bits)), 4), round(float(np.mean(mtp_bits)), 4), *held]
            row += [round(float(share.min()), 3), round(float(share.max()), 3)]
            log.writerow(row)
            file.flush()
            seen_bits, mtp_bits = [], []
            plan = Plan.read(plan_path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
