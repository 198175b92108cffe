"""Common ground of all tests: every SIMD level of this machine in turn, and settings restored afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from dsv3_numerics.model import Model

# With --import-mode=importlib nothing is put on the path; tests share `samples`, which stands beside this
# file.
sys.path.insert(0, str(Path(__file__).parent))

# Property tests prove themselves in CI on a fixed set of examples; deadlines measure the machine, not the
# code.
settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")


def _levels() -> list[str]:
    try:
        from dsv3_numerics import _core
    except ImportError:  # the textbook's own tests run before the core is built
        return ["unbuilt"]
    return list(_core.simd_levels())


def _at(level: str) -> Iterator[str]:
    from dsv3_numerics import _core

    before = _core.simd_level()
    _core.set_simd_level(level)
    yield level
    _core.set_simd_level(before)


@pytest.fixture(scope="session", autouse=True)
def shared_early() -> None:
    """Let threads share work that is too small for it to pay, so that small arrays test them."""
    try:
        from dsv3_numerics import _core
    except ImportError:
        return
    _core.set_least_shared(1 << 12)


@pytest.fixture(params=[level for level in _levels() if level not in ("avx512_bf16", "amx")])
def simd_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once under each SIMD level that this machine has; those above avx512 are for products."""
    yield from _at(request.param)


@pytest.fixture(params=_levels())
def product_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test of products once under each SIMD level that this machine has."""
    yield from _at(request.param)


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Check of a command in `tmp_path`: it ends with a code and a short message, and writes nothing."""
    from commands import call

    monkeypatch.chdir(tmp_path)

    def check(*args: str, code: int, message: str) -> None:
        before = sorted(tmp_path.iterdir())
        got, out, err = call(*args, capsys=capsys)
        assert (got, out) == (code, "")
        assert message in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) <= (1 if code == 1 else 5)
        assert sorted(tmp_path.iterdir()) == before, "nothing was written"

    return check


@pytest.fixture(scope="module")
def fp8() -> Model:
    """A model of a small FP8 checkpoint."""
    from dsv3_numerics.model import Model

    return Model.from_checkpoint(Path(__file__).parent / "golden" / "tiny_v3_fp8")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test once with each number of threads."""
    from dsv3_numerics import _core

    before = _core.get_num_threads()
    _core.set_num_threads(request.param)
    yield request.param
    _core.set_num_threads(before)
