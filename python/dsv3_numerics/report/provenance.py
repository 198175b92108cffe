"""Origin of a result: versions, machine and settings, as data and as lines of a report."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import _core

PACKAGES = ("dsv3_numerics", "numpy", "ml_dtypes")


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Collect versions, machine, SIMD level and threads.

    Parameters
    ----------
    packages : sequence of str
        Names of packages whose versions matter, beside Python's.

    Examples
    --------
    >>> from dsv3_numerics.report.provenance import environment
    >>> sorted(environment())
    ['cpus', 'platform', 'processor', 'simd_level', 'threads', 'versions']
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    return {
        "versions": versions,
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "simd_level": _core.simd_level(),
        "threads": _core.get_num_threads(),
    }


def facts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell of an `environment` among settings: (name, text)."""
    yield "versions", ", ".join(f"{name} {version}" for name, version in settings.get("versions", {}).items())
    yield "machine", f"{settings.get('processor', '?')}, {settings.get('platform', '?')}"
    yield "SIMD level, threads", f"{settings.get('simd_level', '?')}, {settings.get('threads', '?')}"


def _version(package: str) -> str:
    from importlib import metadata  # which loads the parsers of mail

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in text if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
