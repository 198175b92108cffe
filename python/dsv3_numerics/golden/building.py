"""A set of golden vectors in memory: every tensor of an operation, for every kind of input, and what it is.

Lives here: `Request`, what someone asks for, and `build`. Files are `writing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .._arrays import Array
from .._progress import Meter, Progress
from .._recipes import one_of
from ..model.config import Config
from ..model.recipe import Recipe
from .held_models import fingerprint, held_model, is_random, model_files
from .inputs import CASES, Given, drawing
from .layers import recipe_of
from .operations import OPERATIONS, checked
from .sources import real_matrix
from .tensors import Tensors

_SPACING = 16  # between the seeds of cases


@dataclass(frozen=True)
class Request:
    """An operation, its arguments, kinds of input, seed, and where real inputs come from.

    Raises
    ------
    ValueError, TypeError
        Unknown words; arguments that do not go together.
    """

    operation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    cases: tuple[str, ...] = ()
    source: str | None = None
    tensors: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        operation: str,
        arguments: Mapping[str, Any],
        seed: int,
        cases: Sequence[str] | None,
        source: str | None,
        tensors: Sequence[str],
    ) -> Self:
        """Check a request, and fill in what it leaves out."""
        one_of(operation, "operation", OPERATIONS)
        row = OPERATIONS[operation]
        full = checked(operation, arguments)
        if row.has_model and str(full["recipe"]).endswith(".json"):  # the manifest holds what it says
            full["recipe"] = " ".join(Recipe.load(full["recipe"]).to_json().split())
        if row.has_model and str(full["model"]).endswith(".json"):
            full["model"] = json.dumps(Config.from_json(Path(full["model"])).to_dict())
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError(f"seed: found {seed!r}, expected a whole number, 0 to 2**63 - 1")
        real: tuple[str, ...] = ()
        if row.has_model:
            if source is not None or tensors:
                raise ValueError(f"from: found with {operation}, expected model=, whose own inputs are taken")
            real = () if is_random(full["model"]) else ("real",)
        elif source is not None:
            if not 1 <= len(tensors) <= 2:
                raise ValueError(f"tensor: found {len(tensors)} names, expected one, or two for two inputs")
            real = ("real",)
        elif tensors:
            raise ValueError("tensor: found without from, expected a checkpoint or demo as from")
        chosen = tuple((*row.cases, *real) if cases is None else cases)
        for case in chosen:
            one_of(case, "cases", (*row.cases, *real))
        if len(set(chosen)) != len(chosen) or not chosen:
            raise ValueError(f"cases: found {', '.join(chosen) or 'none'}, expected some, each once")
        return cls(operation, full, seed, chosen, source, tuple(tensors))

    def about(self) -> dict[str, Any]:
        """Return the request as a manifest has it."""
        found: dict[str, Any] = {
            "operation": self.operation,
            "arguments": dict(self.arguments),
            "seed": self.seed,
        }
        if self.source is not None:
            found["source"] = {"from": self.source, "tensors": list(self.tensors)}
        if OPERATIONS[self.operation].has_model:
            if not is_random(self.arguments["model"]):
                found["model_files"] = fingerprint(self.arguments["model"])
            recipe = recipe_of(dict(self.arguments))
            found["recipe"] = {"name": recipe.name, "table": str(recipe).splitlines()[1:]}
        return found

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Read the request that a manifest is of.

        Raises
        ------
        ValueError, TypeError
            It names none, or one that is not understood.
        """
        try:
            operation, arguments, seed = (manifest[name] for name in ("operation", "arguments", "seed"))
            cases = [*manifest["cases"], *manifest.get("left_out", {})]
            given = manifest.get("source") or {}
            source, tensors = given.get("from"), given.get("tensors", [])
            if not (isinstance(arguments, dict) and isinstance(operation, str) and type(seed) is int):
                raise TypeError(f"operation {operation!r}, arguments {arguments!r}, seed {seed!r}")
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"manifest: found no request that can be made again ({error!r})") from error
        return cls.of(operation, arguments, seed, cases, source, tensors)


@dataclass
class Built:
    """Tensors by name, what the manifest says of them, and files beside them."""

    tensors: Tensors
    about: dict[str, Any]
    config: dict[str, Any] | None = None
    checkpoint: dict[str, Array] = field(default_factory=dict)


def build(request: Request, progress: Progress | None = None) -> Built:
    """Make all tensors of a request.

    Raises
    ------
    ValueError, TypeError
        Arguments that do not go together.
    OSError
        A source cannot be read.
    """
    row, arguments = OPERATIONS[request.operation], dict(request.arguments)
    meter = Meter(progress, float(len(request.cases)))
    reals = []
    if request.source is not None and "real" in request.cases:
        reals = [real_matrix(request.source, name) for name in request.tensors]
    tensors: Tensors = {} if row.shared is None else row.shared(arguments, request.seed)
    left_out: dict[str, str] = {}
    order = (*row.cases, "real")
    for case in request.cases:
        meter.advance(case)
        seed = request.seed + _SPACING * order.index(case)
        given = Given(case, seed, request.seed, drawing(case, seed, reals))
        try:
            made = row.make(arguments, given)
        except ValueError as error:
            if CASES[case].finite:
                raise
            left_out[case] = str(error)  # such a format or rule does not take NaN and infinities
            made = {}
        tensors |= {f"{case}.{name}": tensor for name, tensor in made.items()}
        meter.advance(case, 1)
    about = {
        **request.about(),
        "cases": {case: CASES[case].catches for case in request.cases if case not in left_out},
        "left_out": left_out,
    }
    built = Built(tensors, about)
    if request.operation == "forward" and is_random(arguments["model"]):
        model = held_model(arguments["model"], request.seed)
        built.config, built.checkpoint = model_files(model, recipe_of(arguments))
    return built
