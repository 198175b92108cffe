"""Configurations of a converted checkpoint: what they say about quantization is true afterwards.

Lives here: rewriting ``config.json``, wherever its sections stand, and ``hf_quant_config.json``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..declared import IGNORE_KEYS, Declaration

_DTYPE_KEYS = ("torch_dtype", "dtype")


def without_sections(config: Mapping[str, Any], declaration: Declaration) -> dict[str, Any]:
    """Return a copy of a configuration without its sections about quantization."""
    new = copy.deepcopy(dict(config))
    for section in declaration.sections:
        if section.keys:
            place = _place(new, section.keys[:-1])
            place.pop(section.keys[-1], None)
    return new


def with_ignored(
    config: Mapping[str, Any], declaration: Declaration, modules: Iterable[str]
) -> dict[str, Any]:
    """Return a copy of a configuration whose sections list more modules as plain."""
    new = copy.deepcopy(dict(config))
    for section in declaration.sections:
        if section.keys:
            ignore(_place(new, section.keys), declaration.method, modules)
    return new


def ignore(section: dict[str, Any], method: str | None, modules: Iterable[str]) -> None:
    """Add modules to a section's list of what is not quantized."""
    key = IGNORE_KEYS.get(method or "fp8", "modules_to_not_convert")
    if method == "modelopt" and "exclude_modules" in section:
        key = "exclude_modules"
    if key == "modules_to_not_convert" and "ignored_layers" in section and key not in section:
        key = "ignored_layers"
    listed = section.get(key)
    before = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    section[key] = before + sorted(set(modules) - set(before))


def with_section(
    config: Mapping[str, Any], declaration: Declaration, section: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a copy of a configuration with one section, where the old one stood or at the top."""
    ways = [found.keys for found in declaration.sections if found.keys]
    new = without_sections(config, declaration)
    way = ways[0] if ways else ("quantization_config",)
    _place(new, way[:-1])["quantization_config"] = dict(section)
    return new


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Say in which dtype plain weights are, in every part that says it."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    keys = [(part, key) for part in parts for key in _DTYPE_KEYS if isinstance(part.get(key), str)]
    for part, key in keys:
        part[key] = dtype
    if not any(key in config for key in _DTYPE_KEYS):
        config["torch_dtype"] = dtype


def _place(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        config = config[key]
    return config
