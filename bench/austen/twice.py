"""Train a sibling of a million parameters in BF16 and in the report's FP8 recipe, from the same starts.

    python twice.py novels.json results/twice.csv [STEPS]

Each seed draws a start and the batches, and both arithmetics train from it: their gap is what FP8 costs.
Beside it stands how far runs in BF16 lie apart that differ in nothing but the seed. A run that the file holds
already is not done again.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optimizer
from fp8 import bf16, fp8
from model import Linear, Sizes, initial, initial_biases
from text import split
from train import Phase, Plan, evaluator, sequences, stepper

SEEDS = (0, 1, 2)
ARITHMETIC: dict[str, Linear] = {"bf16": bf16, "fp8": fp8}
SIZES = Sizes(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    n_routed_experts=4,
    n_group=2,
    topk_group=1,
)
EVERY = 25
HELD_OUT = 32768  # bytes


def plan(seed: int, steps: int) -> Plan:
    """The plan of all runs but for the seed: the rate falls over the second half."""
    rates = ((steps // 10, 1.0), (steps // 2, 1.0), (steps, 0.0))
    return Plan(seed, rates, (Phase(steps, 16, 128, 2, 0.3),), 0.003, 1.5, sizes=SIZES)


def run(seed: int, steps: int, linear: Linear, text: np.ndarray, held_out: np.ndarray) -> list[list[float]]:
    """Train once: steps, and bits per byte of what was read since the last; at the end those held out."""
    own = plan(seed, steps)
    w, biases = initial(SIZES, seed), initial_biases(SIZES)
    state, step = optimizer.start(w), stepper(own, linear)
    rows, seen = [], []
    for number in range(steps):
        phase = own.phase(number)
        ids = sequences(text, seed, number, phase)
        w, biases, state, found = step(
            w, biases, state, ids, own.rate(number), phase.mtp_weight, mtp=phase.mtp
        )
        seen.append(found[0])
        if (number + 1) % EVERY == 0:
            rows.append([number + 1, round(float(jnp.stack(seen).mean()), 5)])
            seen = []
    held, _ = evaluator(SIZES, linear)(w, biases, held_out, tokens=128)
    return [*rows, [-1, round(held, 5)]]


def main(novels: Path, target: Path, steps: int = 300) -> None:
    """Do the runs that are missing, and print the gaps."""
    text, held_out = (np.frombuffer(t, np.uint8) for t in split(json.loads(novels.read_text())))
    if not target.exists():
        target.write_text("seed,arithmetic,step,bits\n")
    for seed in SEEDS:
        for name, linear in ARITHMETIC.items():
            if (seed, name) not in _read(target):
                rows = run(seed, steps, linear, text, held_out[:HELD_OUT])
                with open(target, "a", newline="") as file:
                    csv.writer(file).writerows([seed, name, *row] for row in rows)
                print(seed, name, rows[-2], "held out", rows[-1][1], flush=True)
    rows = summary(target)
    target.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row)


def _read(target: Path) -> dict[tuple[int, str], dict[int, float]]:
    found: dict[tuple[int, str], dict[int, float]] = {}
    with open(target, newline="") as file:
        for row in csv.DictReader(file):
            key = int(row["seed"]), row["arithmetic"]
            found.setdefault(key, {})[int(row["step"])] = float(row["bits"])
    return found


def summary(target: Path) -> list[dict[str, Any]]:
    """The gap of FP8 over the seeds with its 95 % interval (Student's), beside the spread between seeds."""
    found = _read(target)
    last = max(max(steps) for steps in found.values())
    rows: list[dict[str, Any]] = []
    for what, step in (("training, last 25 steps", last), ("held out", -1)):
        both = np.array([[found[seed, name][step] for name in ARITHMETIC] for seed in SEEDS])
        gap = 100 * (both[:, 1] / both[:, 0] - 1)
        half = 4.303 * gap.std(ddof=1) / len(gap) ** 0.5  # t of 0.975 at two degrees of freedom
        apart = 100 * np.abs(np.subtract.outer(both[:, 0], both[:, 0])).max() / both[:, 0].mean()
        figures = {"bf16": both[:, 0].mean(), "gap": gap.mean(), "half": half, "apart": apart}
        rows.append({"what": what, **{name: round(float(value), 5) for name, value in figures.items()}})
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
