"""A whole layer of DeepSeek-V3, mapped from a file: attention, and 256 experts in 10.5 GiB of FP8.

Runs only when it is named (`make fullsize`): it needs 11.5 GB of disk, or a folder in $DSV3_NUMERICS_FULLSIZE
where an earlier run has left the layer. Each row is a process of its own, so that its peak of resident memory
is its own; mapped pages that were read count in it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bench_gemm import Read
from bench_model import numbers
from bench_recipe import RECIPES, near
from dsv3_numerics import checkpoint
from dsv3_numerics.model import MLA, Cache, CheckpointWeights, Config, MoE, random_checkpoint
from dsv3_numerics.reference import model as textbook
from harness import Row, set_state
from suite import product_levels

Array = NDArray[Any]

LEGEND = """\
A layer of DeepSeek-V3 made on the spot and mapped from its file, two threads; each row is a process of its
own. `x read` is the time in which two threads read as many bytes of memory as there are in the weights that
the call must touch, over the time of the call. The note says the seconds of the median call and of the first,
which brings pages in; the bytes; the peak of resident memory, for which the bar is 14 GiB; and the relative
error against float64 on the dequantized weights."""

PLACE = "DSV3_NUMERICS_FULLSIZE"
RESIDENT = 14.0
"GiB that a process may have resident"
CACHED = 1024
PATIENCE = 60.0
"Seconds after which a case makes do with the calls it has."
READ = 1 << 30
"bytes whose reading gives the bandwidth"


@dataclass(frozen=True)
class Case:
    """One row."""

    part: str
    "part of the layer: mlp or self_attn"
    tokens: int
    accumulator: str
    "of the recipe"
    cached: int = 0
    "tokens before these"
    absorbed: bool = False

    @property
    def title(self) -> str:
        """Its name in the table."""
        form = "" if self.part == "mlp" else ", absorbed" if self.absorbed else ", naive"
        return f"{'MoE' if self.part == 'mlp' else 'MLA'}{form}, {self.accumulator}"

    @property
    def size(self) -> str:
        """Input of the layer."""
        count = "1 token" if self.tokens == 1 else f"{self.tokens} tokens"
        return count + (f" at {self.cached}" if self.cached else "")


CASES = [
    *(Case("mlp", tokens, accumulator) for accumulator in RECIPES for tokens in (1, 128)),
    *(Case("self_attn", 128, accumulator) for accumulator in RECIPES),
    *(
        Case("self_attn", 1, accumulator, CACHED, absorbed)
        for accumulator in RECIPES
        for absorbed in (True, False)
    ),
]


@dataclass(frozen=True)
class Found:
    """Outcome of a case, as its process says it."""

    first: float
    seconds: float
    read: float
    touched: int
    resident: float
    error: float


def rows() -> Iterator[Row]:
    """Make the layer if it is not there, and measure every case."""
    with place() as folder:
        config = Config.preset("deepseek_v3")
        made = random_checkpoint(folder, config, layers=[config.first_k_dense_replace])
        print(f"{made.nbytes / 1e9:.1f} GB, {made.written / 1e9:.1f} GB of it made in {made.seconds:.0f} s")
        for case in CASES:
            yield row(case, measured(case, Path(folder)))


def place() -> AbstractContextManager[str]:
    """The folder of the layer: the one that is named, or one that goes with the bench."""
    named = os.environ.get(PLACE)
    return nullcontext(named) if named else tempfile.TemporaryDirectory()


def measured(case: Case, folder: Path, repeats: int = 5) -> Found:
    """Run a case in a process of its own."""
    command = [sys.executable, __file__, json.dumps([asdict(case), str(folder), repeats])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{case.title}, {case.size}: {done.stderr.strip()}")
    return Found(**json.loads(done.stdout))


def row(case: Case, found: Found) -> Row:
    """A case as a line of the table; memory beyond the bar is an error."""
    if found.resident > RESIDENT:
        raise AssertionError(f"{case.title}, {case.size}: {found.resident:.1f} GiB resident")
    note = (
        f"{found.seconds:.3f} s (first {found.first:.2f} s), {found.touched / 2**30:.2f} GiB touched, "
        f"{found.resident:.1f} GiB resident, error {found.error:.2%}"
    )
    rate = found.touched / found.seconds / 1e9
    ratio = found.read / found.seconds
    return Row(
        case.title, case.size, product_levels()[-1], 2, "out", "x read", rate, ratio, pairs=1, note=note
    )


def run(case: Case, folder: Path, repeats: int) -> Found:
    """A case in this process."""
    set_state(product_levels()[-1], 2)
    recipe = RECIPES[case.accumulator]
    with checkpoint.open(folder) as ckpt:
        config = Config.from_json(ckpt.config or {})
        prefix = f"model.layers.{config.first_k_dense_replace}.{case.part}."
        weights, rng = CheckpointWeights(ckpt, prefix), np.random.default_rng(0)
        # As bfloat16 holds them: what the recipe's gate sees is then what float64's sees.
        x = round_bfloat16(rng.standard_normal((1, case.tokens, config.hidden_size), np.float32))
        layer = MoE(config, weights) if case.part == "mlp" else MLA(config, weights)
        cache = None
        if case.cached:
            cache = Cache(config, 1, case.cached + case.tokens, layers=1, dtype=recipe.cache)
            cache.data[:] = rng.standard_normal(cache.data.shape, np.float32).astype(cache.data.dtype)
            cache.lengths[:] = case.cached
        times, out = [], x
        while len(times) < repeats and (len(times) < 2 or sum(times) < PATIENCE):
            start = time.perf_counter()
            if isinstance(layer, MoE):
                out = layer(x, recipe=recipe)
            else:
                out = layer(x, cache, absorbed=case.absorbed, recipe=recipe)
            times.append(time.perf_counter() - start)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        used = touched(layer, x, weights)
        size = sum(stored(ckpt, prefix + name) for name in used)
        error = difference(weights, config, x, out, cache)
    return Found(times[0], float(np.median(times[1:])), reading(size), size, resident, error)


def round_bfloat16(x: Array) -> Array:
    """The nearest bfloat16 numbers, as float32."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def touched(layer: MoE | MLA, x: Array, weights: CheckpointWeights) -> list[str]:
    """The tensors that a call reads."""
    if isinstance(layer, MLA):
        return list(weights)
    chosen = {f"experts.{expert}" for expert in np.unique(layer.gate(x).indices)}
    return [
        name for name in weights if not name.startswith("experts.") or name[: name.index(".", 8)] in chosen
    ]


def stored(ckpt: checkpoint.Checkpoint, name: str) -> int:
    """Bytes of a tensor in its file."""
    return ckpt.info(name).end - ckpt.info(name).begin


def reading(size: int) -> float:
    """Seconds in which two threads read so many bytes from memory."""
    buffer = np.ones(min(READ, size) // 8 * 8, np.uint8)
    read, best = Read(buffer)(2), np.inf
    for _ in range(5):
        start = time.perf_counter()
        read()
        best = min(best, time.perf_counter() - start)
    return best * size / buffer.size


class Wide(Mapping[str, Array]):
    """Weights in float64, dequantized each time they are asked for: a layer of them would take 84 GiB."""

    def __init__(self, weights: CheckpointWeights) -> None:
        self._weights = weights
        self._names = [name for name in weights if not name.endswith("_scale_inv")]

    def __getitem__(self, name: str) -> Array:
        return numbers(self._weights[name]).astype(np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def difference(
    weights: CheckpointWeights, config: Config, x: Array, out: Array, cache: Cache | None
) -> float:
    """Relative error of a call's output against the textbook in float64; of experts, that of two tokens."""
    wide, settings = Wide(weights), config.to_dict()
    if "gate.weight" in wide:
        some = np.unique([0, x.shape[1] - 1])
        expected, _, _ = textbook.moe(x[0, some].astype(np.float64), wide, settings)
        return near(out[0, some], expected, "experts")
    past = None
    if cache is not None:
        held = cache.data[0, :, : int(cache.lengths[0])].astype(np.float64)
        past = textbook.Cache(*np.split(held, [config.kv_lora_rank], axis=-1))
    return near(out, textbook.mla(x.astype(np.float64), wide, settings, past).out, "attention")


def quick() -> str:
    """Every case at tiny sizes in this process, and one of them in a process of its own."""
    config = Config.preset("tiny")
    small = [replace(case, tokens=min(case.tokens, 5), cached=min(case.cached, 6)) for case in CASES]
    with tempfile.TemporaryDirectory() as folder:
        random_checkpoint(folder, config, layers=[config.first_k_dense_replace])
        for case in small:
            row(case, run(case, Path(folder), 2))
        row(small[0], measured(small[0], Path(folder), 2))
    return f"{len(small)} cases at tiny sizes, every answer within FP8's error of float64"


if __name__ == "__main__":
    given, where, times = json.loads(sys.argv[1])
    print(json.dumps(asdict(run(Case(**given), Path(where), times))))
