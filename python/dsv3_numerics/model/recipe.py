"""Recipes: which operation of the forward runs in which format, scale, accumulator and rounding.

Lives here: `Recipe`, its presets, which choices go together, and its ways to a table and to JSON. What a
choice may be is in `fields`, what is done with it in `operations`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .._arrays import brief, positive
from .._atomic import replacing
from .._html import table
from .._recipes import PresetFamily, dtype_word, one_of
from .._regular import parse_object, read_small_text
from ..accumulator import AccumulatorInfo, accumulator_info, accumulators
from ..quantized import SCALE_DTYPES
from ..schemes import Identity, OwnScheme, Scaled, Scheme
from .fields import (
    ACCUMULATORS,
    COMPUTE,
    GATES,
    MASK_VALUES,
    NONE,
    OLD_FIELDS,
    ROTATIONS,
    SCHEMES,
    codes_of,
    modern,
    rule_word,
    scheme_of,
)

_NONE = Identity()
_LARGEST = 1 << 20  # bytes of a recipe file
_MOST_NAMED = 3  # fields in which a recipe may differ from a preset and still be called after it
_COMMON = (
    "e4m3:1x128:f32",
    "e4m3:1x128:ue8m0",
    "e5m2:1x128:f32",
    "int8:1x128",
    "mxfp8",
    "mxfp6",
    "mxfp4",
    "nvfp4",
)  # activations that a message suggests


_COLUMNS = ("operation", "format", "scale", "accumulator", "rounding")


@dataclass(frozen=True)
class Recipe(PresetFamily):
    """Formats of all operations of the forward; by default everything in float64.

    Attributes
    ----------
    compute : {"float64", "float32", "bf16"}
        The dtype in which operations compute and hand on what they make, unless a choice below says
        otherwise. bf16: arrays are float32 with bfloat16 values, computed in float32 and rounded where torch
        rounds.
    activations, weights, cache, dispatch, combine : str or Scheme
        How they are held: anything that `Scheme.parse` takes and that makes sense there; "none" is as they
        are. `activations` and `weights` are the operands of every linear layer that the release quantizes,
        `cache` keeps the latent, `dispatch` sends tokens to experts, whose first products take codes as they
        arrive, and `combine` sends back what experts make of them. With combine "none" each product with a
        weight and each sum is one operation in `compute`; otherwise the weighted sum is in float32 and
        rounded once, as in DeepEP.
    accumulator : str
        Accumulator model, see `accumulators`. "none": dequantize and multiply in the compute dtype.
    promote_every : int or None
        See `matmul_nt`.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic makes the scales of schemes that name none.
    gate : {"none", "float32", "float64", "bf16"}
        The router's product and scores; "none" is the compute dtype. bf16 adds the bias in float32, as V3's
        released code does.
    group_mask_value : {"-inf", "0"}
        The score of groups that were not chosen.
    indexer : str or Scheme
        How the queries and keys of a lightning indexer (DSA) are held, keys in the cache too; "none": in
        `compute`. On codes with a scale for each head their products are the accumulator's, from zero and
        without promotion, and the scales go into the heads' weights, as released.
    index_rotation : {"hadamard", "none"}
        What queries and keys go through before they are quantized.

    Raises
    ------
    ValueError, TypeError
        Unknown words, and choices that do not go together: the message lists what is possible.

    Examples
    --------
    >>> from dsv3_numerics import Recipe
    >>> recipe = Recipe.preset("deepseek_v3").replace(cache="flashmla")
    >>> recipe.name
    'deepseek_v3 with cache=flashmla'
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True
    """

    compute: str = "float64"
    activations: Any = _NONE
    weights: Any = _NONE
    accumulator: str = NONE
    promote_every: int | None = None
    rule: str = "deepseek_v3"
    cache: Any = _NONE
    dispatch: Any = _NONE
    combine: Any = _NONE
    gate: str = NONE
    group_mask_value: str = "-inf"
    indexer: Any = _NONE
    index_rotation: str = "hadamard"

    CHOICES: ClassVar[tuple[str, ...]] = (
        "compute",
        "activations",
        "weights",
        "accumulator",
        "rule",
        "cache",
        "dispatch",
        "combine",
        "gate",
        "group_mask_value",
        "indexer",
        "index_rotation",
    )
    """The fields that `only` and `without` take; "accumulator" stands for `promote_every` too."""

    def __post_init__(self) -> None:
        for name in ("compute", "gate"):
            object.__setattr__(self, name, dtype_word(getattr(self, name)))
        object.__setattr__(self, "rule", rule_word(self.rule))
        for name, words in _WORDS.items():
            one_of(getattr(self, name), name, words)
        for name in SCHEMES:
            object.__setattr__(self, name, scheme_of(name, getattr(self, name)))
        if self.promote_every is not None:
            object.__setattr__(self, "promote_every", positive(self.promote_every, "promote_every"))
        if self.accumulator == NONE:
            if self.promote_every is not None:
                raise ValueError(
                    f"promote_every: found {self.promote_every} with accumulator 'none', expected None: "
                    "there are no tiles whose sums could be promoted; or an accumulator, one of "
                    f"{', '.join(ACCUMULATORS[1:])}"
                )
            return
        unit = accumulator_info(self.accumulator)
        self._check_accumulator(unit)
        self._check_indexer(unit)

    # --- Which choices go together --------------------------------------------------------------------------

    def _check_accumulator(self, unit: AccumulatorInfo) -> None:
        sides = dict(self._sides())
        if "activations" not in sides:
            common = [word for word in _COMMON if codes_of(Scheme.parse(word), self.compute) in unit.inputs]
            possible = [f"activations one of {', '.join(common)}"] if common else []
            possible += ["compute bf16"] if "bfloat16" in unit.inputs else []
            raise ValueError(
                f"accumulator: found {brief(unit.name)}, which adds products of codes, with activations "
                f"'{self.activations}' in {self.compute}; expected "
                f"{' or '.join([*possible, 'accumulator none'])}"
            )
        if not self.weights.is_identity and "weights" not in sides:
            raise ValueError(
                f"accumulator: found {brief(unit.name)}, which adds products of codes, with weights "
                f"'{self.weights}', which are none; expected accumulator none"
            )
        formats = {codes_of(scheme, self.compute) or "" for scheme in sides.values()}
        if not formats <= set(unit.inputs):
            found = ", ".join(f"{name} in {codes_of(held, self.compute)}" for name, held in sides.items())
            taking = [
                info.name
                for info in accumulators()
                if formats <= set(info.inputs)
                and (info.scale is None or all(_unit_takes(info, held) for held in sides.values()))
            ]
            raise ValueError(
                f"accumulator: found {brief(unit.name)}, which takes {', '.join(unit.inputs)}, with {found}; "
                f"expected one of {', '.join([*taking, NONE])}"
            )
        if unit.scale is not None:
            self._check_unit_scales(unit, sides)
        outside = unit.scale is None
        groups = {name: held.group_k for name, held in sides.items() if outside and held.group_k is not None}
        if not groups and (self.promote_every is None or self.promote_every % unit.interval == 0):
            return
        every = self.promote_every
        if every is None or every % unit.interval or any(group % every for group in groups.values()):
            least = min(groups.values(), default=4 * unit.interval)
            fits = [
                str(n)
                for n in range(unit.interval, least + 1, unit.interval)
                if not any(group % n for group in groups.values())
            ]
            fits += [] if groups else ["None"]
            tiles = "; ".join(f"{name} have a scale for {n} products" for name, n in groups.items())
            possible = [f"one of {', '.join(fits)}"] if fits else ["accumulator none"]
            raise ValueError(
                f"promote_every: found {every} with {unit.name!r}, whose steps have {unit.products} products"
                f"{'; ' if tiles else ''}{tiles}; expected {possible[0]}"
            )

    @staticmethod
    def _check_unit_scales(unit: AccumulatorInfo, sides: Mapping[str, Scheme]) -> None:
        """Refuse operands whose scales the unit does not take with the codes."""
        fits = [word for word in _COMMON if _unit_takes(unit, Scheme.parse(word))]
        for name, held in sides.items():
            if not _unit_takes(unit, held):
                blocks = " or ".join(map(str, unit.blocks))
                raise ValueError(
                    f"accumulator: found {unit.name!r}, which takes scales in {unit.scale} for each {blocks} "
                    f"products, with {name} '{held}'; expected {name} one of {', '.join(fits)}"
                )

    def _check_indexer(self, unit: AccumulatorInfo) -> None:
        """Refuse codes of an indexer that the accumulator does not add without their scales."""
        codes = codes_of(self.indexer, self.compute) if self.indexer.is_quantized else None
        if codes is not None and (unit.scale is not None or codes not in unit.inputs):
            scales = f", with scales in {unit.scale}" if unit.scale is not None else ""
            taking = [info.name for info in accumulators() if info.scale is None and codes in info.inputs]
            raise ValueError(
                f"indexer: found '{self.indexer}' with accumulator {unit.name!r}, which takes "
                f"{', '.join(unit.inputs)}{scales}; expected indexer none or accumulator one of "
                f"{', '.join([*taking, NONE])}"
            )

    def _sides(self) -> Iterator[tuple[str, Scheme]]:
        """Return the operands of products on codes, as far as the recipe knows them."""
        if codes_of(self.activations, self.compute):
            yield "activations", self.activations
        if not self.weights.is_identity and codes_of(self.weights, self.compute):
            yield "weights", self.weights
        if self.dispatch.is_quantized:
            yield "dispatch", self.dispatch

    def scheme(self, field: str) -> Scheme:
        """Return the scheme of a field, its scales by the recipe's rule where it names none."""
        return self._schemes[field]

    @cached_property
    def _schemes(self) -> dict[str, Scheme]:
        return {field: getattr(self, field).with_rule(self.rule) for field in SCHEMES}

    def activation_scheme(self, *, dispatched: bool) -> Scheme:
        """Return the scheme of a product's activations: of experts' first products, if `dispatched`."""
        arrived = dispatched and self.dispatch.is_quantized
        return self.scheme("dispatch" if arrived else "activations")

    @cached_property
    def cache_scheme(self) -> Scheme:
        """The scheme of the cache, which is the compute dtype where the recipe has none."""
        return Scheme.parse(self.compute) if self.cache.is_identity else self.scheme("cache")

    @property
    def index_scheme(self) -> Scheme | None:
        """The scheme of an indexer's keys in the cache; None: as the cache has it by itself."""
        return None if self.indexer.is_identity else self.scheme("indexer")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of arrays under the compute dtype."""
        return COMPUTE[self.compute]

    @property
    def bfloat16(self) -> bool:
        """True: the compute dtype is bfloat16."""
        return self.compute == "bf16"

    # --- One choice at a time -------------------------------------------------------------------------------

    def choices(self) -> tuple[str, ...]:
        """List the fields that differ from float64, in the order of `CHOICES`.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.preset("float32").replace(cache="flashmla").choices()
        ('compute', 'cache')
        """
        return tuple(name for name in self.CHOICES if self._part(name) != FLOAT64._part(name))

    def only(self, choice: str) -> Recipe:
        """float64 with this choice alone, and what it cannot do without.

        An accumulator and a rule need the codes that they are about: activations and weights come with them
        (and the compute dtype, where bfloat16 numbers are the codes).

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.preset("deepseek_v3").only("accumulator").choices()
        ('activations', 'weights', 'accumulator')
        """
        one_of(choice, "choice", self.CHOICES)
        fields = self._part(choice)
        if choice in ("accumulator", "rule") and fields != FLOAT64._part(choice):
            fields |= {"activations": self.activations, "weights": self.weights}
            if choice == "accumulator" and self.activations.is_identity:
                fields["compute"] = self.compute
        return FLOAT64.replace(**fields)

    def without(self, choice: str) -> Recipe:
        """Return the recipe with this choice as in float64, and without what cannot stay then.

        Without codes on either side there is nothing for an accumulator to add.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.preset("deepseek_v3").without("activations").accumulator
        'none'
        """
        one_of(choice, "choice", self.CHOICES)
        fields = FLOAT64._part(choice)
        needed = ["compute" if self.activations.is_identity else "activations", "weights"]
        if choice in needed and fields != self._part(choice):
            fields |= FLOAT64._part("accumulator")
        return self.replace(**fields)

    def _part(self, choice: str) -> dict[str, Any]:
        names = ("accumulator", "promote_every") if choice == "accumulator" else (choice,)
        return {name: getattr(self, name) for name in names}

    # --- Names, tables, files -------------------------------------------------------------------------------

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Every preset by its name; see `PRESETS`."""
        return PRESETS  # type: ignore[return-value]

    @classmethod
    def read(cls, text: str) -> Recipe:
        """Return the recipe of a preset's name, or of a JSON file's path (``.json``).

        Raises
        ------
        ValueError
            Neither.
        OSError
            The file cannot be opened.
        """
        return cls.load(text) if str(text).endswith(".json") else cls.preset(text)

    @property
    def name(self) -> str:
        """The preset's, or the closest preset's with what differs, or "custom"."""
        differing = {
            name: [f for f in _FIELDS if getattr(self, f) != getattr(preset, f)]
            for name, preset in PRESETS.items()
        }
        closest = min(differing, key=lambda name: len(differing[name]))
        fields = differing[closest]
        if len(fields) > _MOST_NAMED:
            return "custom"
        return closest + (f" with {', '.join(f'{f}={getattr(self, f)}' for f in fields)}" if fields else "")

    def to_json(self) -> str:
        """Return the recipe as a JSON object, which `from_json` reads.

        Raises
        ------
        ValueError
            A scheme of a user's own has no spelling.
        """
        fields = {name: getattr(self, name) for name in _FIELDS}
        for name in SCHEMES:
            if isinstance(fields[name], OwnScheme):
                raise ValueError(
                    f"{name}: found '{fields[name]}', a scheme of one's own, which JSON cannot spell; "
                    "make the recipe in Python"
                )
            fields[name] = str(fields[name])
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Self:
        """Read a recipe: a JSON object, or a mapping, of fields.

        Fields that are missing are as in float64, or as in a preset that is named under "preset". Files of
        earlier versions are understood: "numbers" and "masked" as fields, "stored" and "numbers" as words.

        Raises
        ------
        ValueError, TypeError
            No JSON, no object, unknown fields; as for the class.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.from_json('{"preset": "deepseek_v3", "combine": "logfmt8"}').name
        'deepseek_v3 with combine=logfmt8:1x128'
        """
        found: Any = parse_object(text, "recipe") if isinstance(text, str) else text
        if not isinstance(found, Mapping):
            raise ValueError(f"recipe: found {type(found).__name__}, expected an object of fields")
        fields = dict(found)
        start = cls.preset(fields.pop("preset", "float64"))
        for old in OLD_FIELDS.keys() & fields.keys():
            if OLD_FIELDS[old] in fields:
                raise ValueError(f"field: found {brief(old)} and {OLD_FIELDS[old]!r}, expected one of them")
            fields[OLD_FIELDS[old]] = fields.pop(old)
        for name in fields:
            one_of(name, "field", ("preset", *_FIELDS))
        fields = {name: modern(name, word) for name, word in fields.items()}
        return cls(**({name: getattr(start, name) for name in _FIELDS} | fields))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote, or a hand wrote.

        Raises
        ------
        OSError
            It cannot be opened.
        ValueError, TypeError
            As for `from_json`, with the path.
        """
        text = read_small_text(path, _LARGEST)
        try:
            return cls.from_json(text)
        except TypeError as error:
            raise TypeError(f"{os.fspath(path)}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, which appears under its name only when complete.

        Raises
        ------
        OSError
            Where the folder is missing or cannot be written.
        """
        data = self.to_json().encode()
        with replacing(Path(path), len(data)) as file:
            file.write(0, data)

    def __str__(self) -> str:
        """Return the recipe as a table: what each operation is done in."""
        rows = [_COLUMNS, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.name, *lines])

    def _repr_html_(self) -> str:
        return table(self.name, _COLUMNS, self._rows())

    def _rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        n, sums = self.compute, "float32" if self.bfloat16 else self.compute
        weights = _label(self.weights, "stored")
        adding = sums if self.accumulator == NONE else self.accumulator
        if self.promote_every is not None:
            adding += f", promoted every {self.promote_every}"
        for name, dispatched in (("q, kv_a, kv_b, o, gate, up, down", False), ("experts' gate, up", True)):
            held = self.dispatch if dispatched and self.dispatch.is_quantized else self.activations
            sides = f"{_label(held, n)} x {weights}"
            scales = ", ".join(text for text in (_scales(held), _scales(self.weights)) if text)
            rule = f" ({self.rule})" if held.uses_scale_rule or self.weights.uses_scale_rule else ""
            yield name, sides, scales + rule, adding, n
        yield "kv_b, absorbed", f"{n} x {weights}", _scales(self.weights), sums, n
        yield "embedding, norms, rotary, sums", n, "", sums, n
        yield "attention, SiLU, head", n, "", sums, n
        gate = n if self.gate == NONE else self.gate
        yield (
            f"router, masked groups {self.group_mask_value}",
            gate,
            "",
            sums if gate == "bf16" else gate,
            gate,
        )
        if not self.indexer.is_identity:
            turned = "" if self.index_rotation == NONE else ", rotated"
            held = f"{_label(self.indexer, n)} x {_label(self.indexer, n)}{turned}"
            own = sums if self.accumulator == NONE else self.accumulator
            yield "indexer's scores", held, _scales(self.indexer), own, "float32"
        kept, plain = str(self.cache_scheme), self.cache.group is None
        yield "cache", kept, _scales(self.cache), "", kept if plain else "bf16"
        for name, held, added in (
            ("dispatch", self.dispatch, ""),
            ("combine", self.combine, sums if self.combine.is_identity else "float32"),
        ):
            yield name, _label(held, n), _scales(held), added, _label(held, n)


def _label(scheme: Scheme, default: str) -> str:
    """Return the format, for a table."""
    if scheme.is_identity:
        return default
    return scheme.short_format if isinstance(scheme, Scaled) else str(scheme)


def _scales(scheme: Scheme) -> str:
    """Return the groups and their scales, for a table."""
    return str(getattr(scheme, "scales", ""))


def _unit_takes(unit: AccumulatorInfo, scheme: Scheme) -> bool:
    """Return True if a unit with scales takes what a scheme makes."""
    if not isinstance(scheme, Scaled) or scheme.format not in unit.inputs:
        return False
    return unit.takes_scales(SCALE_DTYPES[scheme.scale], scheme.group_k)


_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
_WORDS: Mapping[str, Any] = {
    "compute": COMPUTE,
    "accumulator": ACCUMULATORS,
    "gate": GATES,
    "group_mask_value": MASK_VALUES,
    "index_rotation": ROTATIONS,
}

FLOAT64 = Recipe()
_BF16 = Recipe(compute="bf16", weights="bf16", cache="bf16", gate="float32")
_V3 = _BF16.replace(
    activations="e4m3:1x128:f32",
    weights="e4m3:128x128:f32",
    accumulator="hopper_fp8",
    promote_every=128,
    dispatch="e4m3:1x128:f32",
    combine="bf16",
)
_V31 = _V3.replace(activations="e4m3:1x128:ue8m0", weights="e4m3:128x128:ue8m0", dispatch="e4m3:1x128:ue8m0")


def _scaled_units(scheme: str, accumulator: str) -> Recipe:
    """Return the recipe of a block-scaled unit: both operands in its format, one chain over all of k."""
    return _V3.replace(
        activations=scheme, weights=scheme, dispatch=scheme, accumulator=accumulator, promote_every=None
    )


PRESETS: Mapping[str, Recipe] = {
    "float64": FLOAT64,
    "float32": Recipe(compute="float32"),
    "bf16": _BF16,
    "deepseek_v3": _V3,
    "deepseek_v31": _V31,
    "deepseek_v32": _V31.replace(
        rule="deepseek_v32_exp", cache="e4m3:1x128:ue8m0", indexer="e4m3:1x128:ue8m0"
    ),
    "blackwell": _V31.replace(accumulator="blackwell_fp8"),
    "blackwell_mxfp8": _scaled_units("mxfp8", "blackwell_mxf8"),
    "blackwell_nvfp4": _scaled_units("nvfp4", "blackwell_nvfp4"),
}
"""float64 and float32 in everything; bf16 as torch runs a converted model; deepseek_v3 and deepseek_v31 as
released for Hopper, with float32 and power-of-two scales; deepseek_v32 with the FP8 indexer and latent of
V3.2's corrected code; blackwell the same products on its accumulator;
blackwell_mxfp8 and blackwell_nvfp4 on its block-scaled units, weights and dispatch in their formats too."""
