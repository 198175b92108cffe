"""Recipes: which operation of the forward runs in which format, scale, accumulator and rounding.

Lives here: `Recipe`, its presets, which choices go together, and its ways to a table and to JSON. What a
choice may be is in `forms`, what is done with it in `operations`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .._arrays import positive
from .._atomic import replacing
from ..accumulator import AccumulatorInfo, accumulator_info, accumulators
from .forms import (
    ACCUMULATORS,
    ACTIVATIONS,
    CACHES,
    COMBINES,
    DISPATCHES,
    GATES,
    MASKED,
    NUMBERS,
    RULES,
    WEIGHTS,
    Form,
    one_of,
)

_MOST_NAMED = 3  # fields in which a recipe may differ from a preset and still be called after it


@dataclass(frozen=True)
class Recipe:
    """What each operation of the forward is done in; by default everything in float64.

    Attributes
    ----------
    numbers : {"float64", "float32", "bfloat16"}
        What operations hand to each other and compute in, unless a choice below says otherwise. bfloat16:
        arrays are float32 with bfloat16 values, computed in float32 and rounded where torch rounds.
    activations : str
        Left operand of every linear layer that the release quantizes: "none" or a row of `ACTIVATIONS`,
        spelled as `dsv3_numerics.study` spells schemes.
    weights : str
        Right operand: "stored" as the checkpoint has it, or a row of `WEIGHTS`.
    accumulator : str
        What adds products of codes, see `accumulators`. "none": what codes mean is multiplied in `numbers`.
    promote_every : int or None
        See `matmul_nt`.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic makes the scales of what is quantized here.
    cache : str
        How the latent is kept: "numbers", or a row of `CACHES`.
    dispatch : str
        What is sent to experts: "numbers", or a row of `DISPATCHES`. The experts' first products take codes
        as they arrive.
    combine : str
        What an expert sends back: "numbers", or a row of `COMBINES`. With "numbers" each product with a
        weight and each sum is one operation in `numbers`; otherwise the weighted sum is in float32 and
        rounded once, as in DeepEP.
    gate : {"numbers", "float32", "float64", "bfloat16"}
        The router's product and scores. bfloat16 adds the bias in float32, as V3's released code does.
    masked : {"-inf", "0"}
        What groups that were not chosen count as.

    Raises
    ------
    ValueError, TypeError
        Unknown words, and choices that do not go together: the message lists what is possible.

    Examples
    --------
    >>> from dsv3_numerics import Recipe
    >>> recipe = Recipe.preset("deepseek_v3").replace(cache="fp8")
    >>> recipe.name
    'deepseek_v3 with cache=fp8'
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True
    """

    numbers: str = "float64"
    activations: str = "none"
    weights: str = "stored"
    accumulator: str = "none"
    promote_every: int | None = None
    rule: str = "deepseek_v3"
    cache: str = "numbers"
    dispatch: str = "numbers"
    combine: str = "numbers"
    gate: str = "numbers"
    masked: str = "-inf"

    CHOICES: ClassVar[tuple[str, ...]] = (
        "numbers",
        "activations",
        "weights",
        "accumulator",
        "rule",
        "cache",
        "dispatch",
        "combine",
        "gate",
        "masked",
    )
    """The fields that `only` and `without` take; "accumulator" stands for `promote_every` too."""

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            one_of(getattr(self, name), name, words)
        if self.promote_every is not None:
            object.__setattr__(self, "promote_every", positive(self.promote_every, "promote_every"))
        if self.accumulator == "none":
            if self.promote_every is not None:
                raise ValueError(
                    f"promote_every: found {self.promote_every} with accumulator 'none', expected None: "
                    "there are no tiles whose sums could be promoted; or an accumulator, one of "
                    f"{', '.join(ACCUMULATORS[1:])}"
                )
            return
        self._check_accumulator(accumulator_info(self.accumulator))

    # --- Which choices go together --------------------------------------------------------------------------

    def _check_accumulator(self, unit: AccumulatorInfo) -> None:
        sides = dict(self._sides())
        if "activations" not in sides:
            coded = [form.spelling for form in ACTIVATIONS.values() if form.format in unit.inputs]
            possible = [f"activations one of {', '.join(coded)}"] if coded else []
            possible += ["numbers bfloat16"] if "bfloat16" in unit.inputs else []
            raise ValueError(
                f"accumulator: found {unit.name!r}, which adds products of codes, with activations 'none' in "
                f"{self.numbers}; expected {' or '.join([*possible, 'accumulator none'])}"
            )
        formats = {form.format for form in sides.values()}
        if not formats <= set(unit.inputs):
            found = ", ".join(f"{name} in {form.format}" for name, form in sides.items())
            taking = [info.name for info in accumulators() if formats <= set(info.inputs)]
            raise ValueError(
                f"accumulator: found {unit.name!r}, which takes {', '.join(unit.inputs)}, with {found}; "
                f"expected one of {', '.join([*taking, 'none'])}"
            )
        groups = {name: form.along for name, form in sides.items() if form.along is not None}
        if not groups and (self.promote_every is None or self.promote_every % unit.products == 0):
            return
        every = self.promote_every
        if every is None or every % unit.products or any(group % every for group in groups.values()):
            least = min(groups.values(), default=4 * unit.products)
            fits = [
                str(n)
                for n in range(unit.products, least + 1, unit.products)
                if not any(group % n for group in groups.values())
            ]
            fits += [] if groups else ["None"]
            tiles = "; ".join(f"{name} have a scale for {n} products" for name, n in groups.items())
            possible = [f"one of {', '.join(fits)}"] if fits else ["accumulator none"]
            raise ValueError(
                f"promote_every: found {every} with {unit.name!r}, whose steps have {unit.products} products"
                f"{'; ' if tiles else ''}{tiles}; expected {possible[0]}"
            )

    def _sides(self) -> Iterator[tuple[str, Form]]:
        """The operands of products on codes, as far as the recipe knows them."""
        if ACTIVATIONS[self.activations].coded:
            yield "activations", ACTIVATIONS[self.activations]
        elif self.bfloat16:
            yield "activations", WEIGHTS["bf16"]
        if WEIGHTS[self.weights].format is not None:
            yield "weights", WEIGHTS[self.weights]
        if DISPATCHES[self.dispatch].coded:
            yield "dispatch", DISPATCHES[self.dispatch]

    def left_of(self, *, sent: bool) -> Form:
        """The form of a left operand, a row without codes where it is numbers; `sent` to experts, or not."""
        wire = DISPATCHES[self.dispatch]
        return wire if sent and wire.coded else ACTIVATIONS[self.activations]

    @property
    def cache_name(self) -> str:
        """The format of the cache."""
        return self.numbers if self.cache == "numbers" else self.cache

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of arrays in `numbers`."""
        return NUMBERS[self.numbers]

    @property
    def bfloat16(self) -> bool:
        """Whether numbers are rounded to bfloat16."""
        return self.numbers == "bfloat16"

    # --- One choice at a time -------------------------------------------------------------------------------

    def replace(self, **fields: Any) -> Recipe:
        """The recipe with other choices.

        Raises
        ------
        ValueError, TypeError
            As for the class.
        """
        for name in fields:
            one_of(name, "field", _FIELDS)
        return dataclasses.replace(self, **fields)

    def choices(self) -> tuple[str, ...]:
        """Those that differ from float64, in the order of `CHOICES`.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.preset("float32").replace(cache="fp8").choices()
        ('numbers', 'cache')
        """
        return tuple(name for name in self.CHOICES if self._part(name) != FLOAT64._part(name))

    def only(self, choice: str) -> Recipe:
        """float64 with this choice alone, and what it cannot do without.

        An accumulator and a rule need the codes that they are about: activations and weights come with them
        (and bfloat16 numbers, where those are the codes).

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
            if choice == "accumulator" and not ACTIVATIONS[self.activations].coded:
                fields["numbers"] = self.numbers
        return FLOAT64.replace(**fields)

    def without(self, choice: str) -> Recipe:
        """The recipe with this choice as in float64, and without what cannot stay then.

        Without codes on either side there is nothing for an accumulator to add.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.preset("deepseek_v3").without("activations").accumulator
        'none'
        """
        one_of(choice, "choice", self.CHOICES)
        fields = FLOAT64._part(choice)
        needed = ["activations", "weights"] if ACTIVATIONS[self.activations].coded else ["numbers", "weights"]
        if choice in needed and fields != self._part(choice):
            fields |= FLOAT64._part("accumulator")
        return self.replace(**fields)

    def _part(self, choice: str) -> dict[str, Any]:
        names = ("accumulator", "promote_every") if choice == "accumulator" else (choice,)
        return {name: getattr(self, name) for name in names}

    # --- Names, tables, files -------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """A recipe of `PRESETS`.

        Raises
        ------
        ValueError
            There is none of this name; those there are.
        """
        one_of(name, "recipe", PRESETS)
        return PRESETS[name]

    @classmethod
    def of(cls, recipe: Recipe | str) -> Recipe:
        """A recipe, or the preset of a name.

        Raises
        ------
        TypeError, ValueError
            Neither.
        """
        if isinstance(recipe, Recipe):
            return recipe
        if not isinstance(recipe, str):
            raise TypeError(f"recipe: found {type(recipe).__name__}, expected a Recipe or a preset's name")
        return cls.preset(recipe)

    @classmethod
    def read(cls, text: str) -> Recipe:
        """The recipe of a preset's name, or of a JSON file's path (``.json``).

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
        """The recipe as a JSON object, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Self:
        """Read a recipe: a JSON object, or a mapping, of fields.

        Fields that are missing are as in float64, or as in a preset that is named under "preset".

        Raises
        ------
        ValueError, TypeError
            No JSON, no object, unknown fields; as for the class.

        Examples
        --------
        >>> from dsv3_numerics import Recipe
        >>> Recipe.from_json('{"preset": "deepseek_v3", "combine": "logfmt8"}').name
        'deepseek_v3 with combine=logfmt8'
        """
        found = text
        if isinstance(text, str):
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"recipe: found no JSON ({error}), expected an object of fields") from None
        if not isinstance(found, Mapping):
            raise ValueError(f"recipe: found {type(found).__name__}, expected an object of fields")
        fields = dict(found)
        start = PRESETS["float64"] if "preset" not in fields else cls.preset(fields.pop("preset"))
        for name in fields:
            one_of(name, "field", ("preset", *_FIELDS))
        return cls(**(dataclasses.asdict(start) | fields))

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
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
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
        """The recipe as a table: what each operation is done in."""
        head = ("operation", "format", "scale", "accumulator", "rounding")
        rows = [head, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.name, *lines])

    def _rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        n, sums = self.numbers, "float32" if self.bfloat16 else self.numbers
        right = WEIGHTS[self.weights]
        adding = sums if self.accumulator == "none" else self.accumulator
        if self.promote_every is not None:
            adding += f", promoted every {self.promote_every}"
        sent, back = DISPATCHES[self.dispatch], COMBINES[self.combine]
        for name, left in (
            ("q, kv_a, kv_b, o, gate, up, down", ACTIVATIONS[self.activations]),
            ("experts' gate, up", sent if sent.coded else ACTIVATIONS[self.activations]),
        ):
            forms = f"{left.short or n} x {right.short or right.spelling}"
            scales = ", ".join(form.scales for form in (left, right) if form.scales)
            rule = f" ({self.rule})" if left.ruled or right.ruled else ""
            yield name, forms, scales + rule, adding, n
        yield "kv_b, absorbed", f"{n} x {right.short or right.spelling}", right.scales, sums, n
        yield "embedding, norms, rotary, sums", n, "", sums, n
        yield "attention, SiLU, head", n, "", sums, n
        gate = n if self.gate == "numbers" else self.gate
        yield f"router, masked groups {self.masked}", gate, "", sums if gate == "bfloat16" else gate, gate
        cache = CACHES[self.cache]
        kept = n if cache.spelling == "numbers" else cache.spelling
        yield "cache", kept, cache.scales, "", "bfloat16" if cache.bits or cache.coded else kept
        yield "dispatch", sent.short or n, sent.scales, "", sent.short or n
        plain = back.spelling == "numbers"
        wire = back.short or (n if plain else back.spelling)
        yield "combine", wire, back.scales, sums if plain else "float32", n


_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
_WORDS: Mapping[str, Any] = {
    "numbers": NUMBERS,
    "activations": ACTIVATIONS,
    "weights": WEIGHTS,
    "accumulator": ACCUMULATORS,
    "rule": RULES,
    "cache": CACHES,
    "dispatch": DISPATCHES,
    "combine": COMBINES,
    "gate": GATES,
    "masked": MASKED,
}

FLOAT64 = Recipe()
_BF16 = Recipe(numbers="bfloat16", weights="bf16", cache="bfloat16", gate="float32")
_V3 = _BF16.replace(
    activations="e4m3:1x128:f32",
    weights="e4m3:128x128:f32",
    accumulator="hopper_fp8",
    promote_every=128,
    dispatch="e4m3:1x128:f32",
    combine="bf16",
)
_V31 = _V3.replace(activations="e4m3:1x128:ue8m0", weights="e4m3:128x128:ue8m0", dispatch="e4m3:1x128:ue8m0")

PRESETS: Mapping[str, Recipe] = {
    "float64": FLOAT64,
    "float32": Recipe(numbers="float32"),
    "bf16": _BF16,
    "deepseek_v3": _V3,
    "deepseek_v31": _V31,
    "blackwell": _V31.replace(accumulator="blackwell_fp8"),
}
"""float64 and float32 in everything; bf16 as torch runs a converted model; deepseek_v3 and deepseek_v31 as
released for Hopper, with float32 and power-of-two scales; blackwell the same products on its accumulator."""
