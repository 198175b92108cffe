"""Digests of single operations under the presets, at every SIMD level: those that the textbook confirmed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from steps import Steps

DIGESTS = json.loads(Path(__file__).with_name("recipes.json").read_text())


@pytest.mark.usefixtures("product_level")
def test_digests() -> None:
    found = {name: hashlib.sha256(step.run().tobytes()).hexdigest() for name, step in Steps()}
    assert found == DIGESTS


@pytest.mark.parametrize("part", ["kv_b_proj", "experts.0.up_proj", "dispatch", "combine", "cache"])
def test_textbook(part: str) -> None:
    """One of each kind again, as the script that wrote the digests does with all of them."""
    steps = [(name, step) for name, step in Steps() if part in name and step.exact]
    for name, step in steps[:3]:
        found, expected = step.run(), np.ascontiguousarray(step.textbook())
        assert np.array_equal(found.view(np.uint8), expected.view(np.uint8)), name
    assert steps
