"""Build as maturin does, with the paths of the building machine kept out of the binary, whoever builds.

The hooks of pyproject.toml's `build-backend`, through which `pip install .` and `pip wheel .` go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from maturin import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# pip runs the hooks in the folder of the sources, in a process of their own. Without a shell, paths stay.
if shell := shutil.which("sh"):
    script = Path(__file__).with_name("rustflags")
    flags = subprocess.run([shell, str(script)], check=True, capture_output=True, text=True)
    os.environ["RUSTFLAGS"] = flags.stdout.strip()
