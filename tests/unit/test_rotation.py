"""The random Hadamard transform: a rotation, its inverse, and products that it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from dsv3_numerics.rotation import random_hadamard


def test_is_the_matrix_with_signs() -> None:
    h = np.array([[1.0]])
    for _ in range(4):
        h = np.block([[h, h], [h, -h]])
    x = np.random.default_rng(1).integers(-99, 99, (5, 48)).astype(np.float32)
    signs = np.random.default_rng(7).choice(np.float32([-1, 1]), 16)
    expected = (x.reshape(5, 3, 16) * signs) @ h.T / 4
    np.testing.assert_array_equal(random_hadamard(x, seed=7), expected.reshape(5, 48))


@pytest.mark.parametrize("width", [1, 2, 16, 64])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_inverse_and_products(width: int, axis: int) -> None:
    x = np.random.default_rng(2).standard_normal((64, 128))
    y = random_hadamard(x, seed=3, width=width, axis=axis)
    np.testing.assert_allclose(random_hadamard(y, seed=3, width=width, axis=axis, inverse=True), x, atol=1e-5)
    if axis == 0:
        w = np.random.default_rng(4).standard_normal((64, 32))
        turned = random_hadamard(w, seed=3, width=width, axis=0)
        np.testing.assert_allclose(y.T @ turned, x.T @ w, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 12}, "power of two"), ({"width": 64}, "multiple of 64")]
)
def test_what_cannot_be(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_hadamard(np.ones((2, 96), np.float32), seed=0, **options)
