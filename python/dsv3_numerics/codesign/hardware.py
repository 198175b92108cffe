"""Machines as rows of TOML: peaks, memory, links; the package's own, or a user's file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from .._regular import read_small_text
from .checks import number, one_of
from .figures import TAGS

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class Hardware:
    """One machine: dense peaks in FLOP/s, bytes a second in one direction, per GPU.

    Attributes
    ----------
    bf16, fp8, fp4 : float or None
        Peaks; None where the machine has none.
    memory, capacity : float or None
        Bytes a second; bytes.
    scale_up, scale_up_effective, network, network_effective : float or None
        Bytes a second, nominal and as reached.
    scale_up_gpus : int or None
        GPUs that share the scale-up network.
    latency : float
        Seconds a transfer; by default InfiniBand's across leaves (table 5).
    """

    name: str
    source: str
    tag: str = "published"
    bf16: float | None = None
    fp8: float | None = None
    fp4: float | None = None
    memory: float | None = None
    capacity: float | None = None
    scale_up: float | None = None
    scale_up_effective: float | None = None
    scale_up_gpus: int | None = None
    network: float | None = None
    network_effective: float | None = None
    latency: float = 3.7e-6

    def need(self, key: str, purpose: str) -> float:
        """Return a figure of the machine.

        Raises
        ------
        ValueError
            It has none; no other is taken in its place.
        """
        value = getattr(self, key)
        if value is None and key.endswith("_effective"):
            value = getattr(self, key.removesuffix("_effective"))
        if value is None:
            raise ValueError(f"hardware: {self.name} has no {key}, which {purpose} needs (--set {key}=...)")
        return float(value)


_TEXTS = ("source", "tag")
_KEYS = tuple(f.name for f in fields(Hardware) if f.name != "name")


def read_hardware(source: str | Hardware, changes: Iterable[str] = ()) -> Hardware:
    """Read a machine by its name, or from a user's TOML file.

    Parameters
    ----------
    source : str or Hardware
        A name in ``data/hardware.toml``, ``FILE.toml`` with one table, or ``FILE.toml:NAME``.
    changes : iterable of str
        Figures put in place of its own, each ``key=value``.

    Raises
    ------
    ValueError
        No such machine; an unknown key; a figure that is no positive number.

    Examples
    --------
    >>> from dsv3_numerics.codesign import read_hardware
    >>> read_hardware("h800", ["network=40e9"]).network
    40000000000.0
    """
    found = source if isinstance(source, Hardware) else _find(source)
    for change in changes:
        key, equals, value = change.partition("=")
        one_of(key, "--set", [k for k in _KEYS if k not in _TEXTS])
        try:
            figure = float(value)
        except ValueError:
            figure = float("nan")
        if not equals or not 0 < figure < float("inf"):
            raise ValueError(f"--set {key}: found {value!r}, expected a positive number")
        made: Any = int(figure) if key == "scale_up_gpus" else figure
        found = replace(found, **{key: made}, source=f"{found.source}; {change} as given")
    return found


def machines() -> dict[str, Hardware]:
    """Machines that come with the package, by name."""
    return dict(_own())


@cache
def _own() -> dict[str, Hardware]:
    text = (resources.files(__package__) / "data" / "hardware.toml").read_text(encoding="utf-8")
    return _parsed(text, "hardware.toml")


def _find(source: str) -> Hardware:
    path, _, name = source.rpartition(":") if ".toml:" in source else (source, "", "")
    if not path.endswith(".toml"):
        one_of(source.lower(), "hardware", [*_own()])
        return _own()[source.lower()]
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"hardware: found {path!r}, no such file")
    rows = _parsed(read_small_text(file, _LARGEST_FILE), str(file))
    if not name and len(rows) != 1:
        raise ValueError(f"{file}: found {len(rows)} machines, expected {file}:NAME of {', '.join(rows)}")
    if name:
        one_of(name, f"{file}", rows)
    return rows[name or next(iter(rows))]


def _parsed(text: str, where: str) -> dict[str, Hardware]:
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not TOML ({error})") from error
    if not tables:
        raise ValueError(f"{where}: found no table, expected one a machine: [name]")
    return {name: _row(name, table, where) for name, table in tables.items()}


def _row(name: str, table: Any, where: str) -> Hardware:
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: {name}: found {table!r}, expected a table: [name], then key = value")
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise ValueError(f"{where}: {name}: unknown {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    if not isinstance(table.get("source"), str) or not table["source"].strip():
        raise ValueError(f"{where}: {name}: no source, expected a text that says where the figures are from")
    values: dict[str, Any] = dict(table)
    one_of(values.setdefault("tag", "published"), f"{where}: {name}: tag", TAGS)
    for key, value in table.items():
        if key not in _TEXTS:
            number(value, f"{where}: {name}: {key}", positive=True)
    gpus = values.get("scale_up_gpus")
    if gpus is not None and gpus != int(gpus):
        raise ValueError(f"{where}: {name}: scale_up_gpus: found {gpus}, expected an integer")
    return Hardware(name=name, **values)
