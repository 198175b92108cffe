"""Low-precision weights as a checkpoint stores them: the result of `resolve`.

Lives here: `StoredWeight`, one weight with its dialect and its tensors, and `Contents`, all of them with what
is not understood. No file is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from .declared import Declaration, form_text
from .dialects import Dialect
from .forms import Grid, Shape
from .scan import Problem, TensorInfo

WORDS = {"int4": 8, "int8": 4}
"""Codes of a 32-bit word."""


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight and how it is stored.

    Attributes
    ----------
    name : str
        Of the weight as plain numbers.
    dialect : Dialect
    codes : TensorInfo
    scale, second : TensorInfo or None
        Scales, and the scale of scales.
    others : tuple of TensorInfo
        Companions that belong to the quantized form only.
    format : str
        Of a code.
    shape : tuple of int
        Of the weight as it is stored, in elements.
    grid : Grid
    form : str
        Which of `FORMS` the scales have.
    scale_meaning : {"number", "e8m0"}
    """

    name: str
    dialect: Dialect
    codes: TensorInfo
    scale: TensorInfo | None
    second: TensorInfo | None
    others: tuple[TensorInfo, ...]
    format: str
    shape: Shape
    grid: Grid
    form: str
    scale_meaning: str = "number"

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the files, of all that belongs to it."""
        return sum(info.nbytes for info in self.parts)

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """Everything that is stored for it."""
        return tuple(filter(None, (self.codes, self.scale, self.second, *self.others)))

    @property
    def plain_shape(self) -> Shape:
        """The shape as plain numbers."""
        if not self.dialect.transposed:
            return self.shape
        return (*self.shape[:-2], self.shape[-1], self.shape[-2])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of codes."""
        cols = self.grid.cols
        if self.dialect.packing == "nibbles":
            return -(-cols // 2)
        if self.dialect.packing == "words":
            return -(-cols // WORDS[self.format]) * 4
        return cols

    @property
    def module(self) -> str:
        """The weight's name without ``.weight``."""
        return self.name.removesuffix(".weight")

    def __str__(self) -> str:
        if self.scale is None:
            return f"{self.dialect.name}: {self.format}, no scales"
        high, wide = self.grid.block
        shared = "one number" if self.form == "one" else f"{high}x{wide}"
        return f"{self.dialect.name}: {self.format}, {shared}, {self.scale.dtype} scales"


@dataclass
class Contents:
    """Meaning of the tensors of a checkpoint.

    Attributes
    ----------
    weights : dict of str to StoredWeight
        Low-precision weights by their names as plain numbers.
    owner : dict of str to str
        The weight that each stored tensor belongs to.
    problems : list of Problem
        What is declared or known by its name, and not understood.
    declaration : Declaration
    markers : set of str
        Tensors that say that a file is quantized, and hold nothing.
    """

    declaration: Declaration
    weights: dict[str, StoredWeight] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    markers: set[str] = field(default_factory=set)

    @cached_property
    def problem_of(self) -> dict[str, Problem]:
        """The first problem of each tensor."""
        found: dict[str, Problem] = {}
        for problem in self.problems:
            for name in problem.tensors:
                found.setdefault(name, problem)
        return found

    @cached_property
    def undeclared(self) -> Problem | None:
        """The first problem of no tensor in particular: what is declared of all weights is not understood."""
        return next((p for p in self.problems if not p.tensors and not p.note), None)

    @property
    def dialects(self) -> dict[str, Dialect]:
        """The rows in use, by name."""
        return {weight.dialect.name: weight.dialect for weight in self.weights.values()}


def describe(weight: StoredWeight) -> str:
    """Scales of a weight in words, for tables."""
    return f"{weight.dialect.name}, {form_text(weight.form)}"
