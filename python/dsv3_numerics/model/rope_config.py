"""Rotary settings of a ``config.json``: ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``.

Lives here: `Yarn` and `read_rope`. Releases write the first two, transformers 5 only the last; a file that
has both must say the same twice. Settings that can be read in two ways are refused: the releases' code and
transformers disagree about YaRN's amplitude where only one of ``mscale`` and ``mscale_all_dim`` is given.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from .._arrays import brief

DEFAULT_THETA = 10000.0
"""Base of the frequencies where a config names none."""


@dataclass(frozen=True)
class Yarn:
    """``rope_scaling`` of type ``yarn``: how positions beyond the original context are reached.

    Attributes
    ----------
    factor : float
        Longest context over the original one.
    original_max_position_embeddings : int
        The context that the model was first trained on.
    beta_fast, beta_slow : float
        Rotations over the original context between which frequencies go from kept to interpolated.
    mscale, mscale_all_dim : float
        The amplitude of cosines and sines is ``m(mscale) / m(mscale_all_dim)``, the attention's scale is
        multiplied by ``m(mscale_all_dim)**2``, with ``m(x) = 0.1 x ln(factor) + 1``.

    Source: YaRN (arXiv 2309.00071), as DeepSeek-V3's config sets it (technical report, section 4.3).
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    def __post_init__(self) -> None:
        for name in ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if not (is_number(value) and value > 0):
                raise ValueError(f"rope_scaling.{name}: found {brief(value)}, expected a positive number")
        for name in ("mscale", "mscale_all_dim"):
            if not is_number(getattr(self, name)):
                raise ValueError(
                    f"rope_scaling.{name}: found {brief(getattr(self, name))}, expected a number"
                )

    def magnitude(self, mscale: float) -> float:
        """``0.1 mscale ln(factor) + 1``, or 1 where nothing is extended."""
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    @property
    def amplitude(self) -> float:
        """Factor of cosines and sines."""
        return self.magnitude(self.mscale) / self.magnitude(self.mscale_all_dim)


class Rope(NamedTuple):
    """Outcome of `read_rope`."""

    theta: float
    yarn: Yarn | None


_YARN = {f.name for f in fields(Yarn)}
_KINDS = {"default": False, "yarn": True, "deepseek_yarn": True}
_TYPE_KEYS = ("type", "rope_type")
# Fields beside those of `Yarn`, and how this forward can take them.
_ONE_WAY: dict[str, tuple[Any, ...]] = {
    "attention_factor": (None,),
    "partial_rotary_factor": (1,),
    "truncate": (True,),
}


def read_rope(found: Mapping[str, Any]) -> Rope:
    """Read theta and scaling from a config, wherever it has them.

    Parameters
    ----------
    found : mapping
        The content of a ``config.json``.

    Returns
    -------
    Rope

    Raises
    ------
    ValueError
        A kind of scaling that this forward does not have, an unknown or contradictory field, or settings that
        the releases' code and transformers read differently.

    Examples
    --------
    >>> from dsv3_numerics.model.rope_config import read_rope
    >>> read_rope({"rope_parameters": {"rope_type": "default", "rope_theta": 50000}})
    Rope(theta=50000.0, yarn=None)
    """
    readings: dict[str, Rope] = {}
    for place in ("rope_scaling", "rope_parameters"):
        if found.get(place) is not None:
            readings[place] = _section(place, found[place])
    thetas = {f"{place}.rope_theta": r.theta for place, r in readings.items() if not math.isnan(r.theta)}
    if found.get("rope_theta") is not None:
        thetas["rope_theta"] = _theta("rope_theta", found["rope_theta"])
    if len(set(thetas.values())) > 1:
        raise ValueError(
            "; ".join(f"{name}: found {value}" for name, value in thetas.items()) + ", expected one theta"
        )
    yarns = {place: r.yarn for place, r in readings.items()}
    if len(set(yarns.values())) > 1:
        raise ValueError(
            "; ".join(f"{place}: found {yarn or 'no scaling'}" for place, yarn in yarns.items())
            + ", expected the same twice, or one of them"
        )
    return Rope(next(iter(thetas.values()), DEFAULT_THETA), next(iter(yarns.values()), None))


def _section(place: str, found: Any) -> Rope:
    if isinstance(found, Yarn):
        return Rope(math.nan, found)
    if not isinstance(found, Mapping):
        raise ValueError(f"{place}: found {brief(found)}, expected an object or null")
    kinds = {found[key] for key in _TYPE_KEYS if isinstance(found.get(key), str)}
    odd = [key for key in _TYPE_KEYS if not isinstance(found.get(key, ""), str)]
    if odd or len(kinds) > 1:
        raise ValueError(
            f"{place}: found {' and '.join(f'{k} {found.get(k)!r}' for k in _TYPE_KEYS)}, expected one type"
        )
    kind = next(iter(kinds), "default" if place == "rope_parameters" else None)
    if kind not in _KINDS:
        raise ValueError(f"{place}: found type {kind!r}, expected {' or '.join(map(repr, _KINDS))} (or null)")
    known = (_YARN if _KINDS[kind] else set()) | set(_ONE_WAY) | {*_TYPE_KEYS, "rope_theta"}
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(f"{place}: found {', '.join(unknown)}, which type {kind!r} does not have")
    for name, possible in _ONE_WAY.items():
        if name in found and found[name] not in possible:
            raise ValueError(
                f"{place}.{name}: found {found[name]!r}, expected {' or '.join(map(repr, possible))}"
            )
    theta = _theta(f"{place}.rope_theta", found["rope_theta"]) if "rope_theta" in found else math.nan
    return Rope(theta, _yarn(place, found) if _KINDS[kind] else None)


def _yarn(place: str, found: Mapping[str, Any]) -> Yarn:
    missing = [name for name in ("factor", "original_max_position_embeddings") if found.get(name) is None]
    if missing:
        raise ValueError(f"{place}: {', '.join(missing)} missing, expected with type 'yarn'")
    values = {name: found[name] for name in _YARN if found.get(name) is not None}
    for name, value in values.items():
        if not is_number(value):
            raise ValueError(f"{place}.{name}: found {brief(value)}, expected a number")
    yarn = Yarn(**values)
    # transformers takes the ratio only where both are given and not zero, and mscale 1 alone otherwise.
    both = bool(values.get("mscale")) and bool(values.get("mscale_all_dim"))
    other = yarn.amplitude if both else yarn.magnitude(1.0)
    if abs(other - yarn.amplitude) > 1e-12:
        raise ValueError(
            f"{place}: found mscale {values.get('mscale')}, mscale_all_dim {values.get('mscale_all_dim')}, "
            f"expected both or neither: the release's code reads an amplitude of {yarn.amplitude:.6g}, "
            f"transformers {other:.6g}"
        )
    return yarn


def _theta(name: str, value: Any) -> float:
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name}: found {brief(value)}, expected a positive number")
    return float(value)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that float64 holds: neither NaN nor an integer beyond it."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
