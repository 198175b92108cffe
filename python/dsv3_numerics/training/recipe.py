"""How a linear layer and an expert compute in training: schemes of the operands, sums, and the presets.

Lives here: `LinearRecipe`, `ExpertRecipe`, and how an operand is brought into its scheme. The products are in
`products` and `expert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array, brief, deliver, destination, positive, seed_key, source
from .._recipes import BF16, PresetFamily, dtype_word, one_of
from ..accumulator import accumulator_info
from ..gemm import matmul_nt
from ..quant import requantize_tiles
from ..quantized import SCALE_DTYPES, Quantized
from ..rotation import random_hadamard
from ..schemes import Cast, Identity, Scaled, Scheme, quantize
from .swiglu import COMPUTE

Operand = Quantized | Array
"""One side of a product: codes with scales, or numbers without."""

Seed = int | np.random.Generator | None
"""Seed of rounding at random and of rotations: a generator gives other bits to every call."""

_PLAIN: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class LinearRecipe(PresetFamily):
    """How a linear layer computes in training; by default as DeepSeek-V3 does on Hopper.

    Attributes
    ----------
    activations, weights, gradients : str or Scheme
        How x, w and dy are held: codes that share scales, "bf16", or "float64" for all three. Groups of x run
        along a row; those of dy too, or are blocks for Dgrad, which the report tried and gave up (appendix
        B.2). Wgrad takes groups of as many tokens. DeepSeek-V3 has powers of two ("e4m3:1x128:ue8m0") for x
        after attention and before the experts, and for dy before the experts' last projection.
    saved_activations : str or Scheme, optional
        How x waits for wgrad; as `activations` if None. "e5m6:1x128:ue8m0" after attention.
    recompute_activations : bool
        wgrad's x is not saved but made again (V3 does so with SwiGLU's output), so that its numbers are
        quantized along tokens at once; otherwise it is regrouped from the saved tiles.
    gradients_arrive : bool
        dy arrives in tiles of a row, as it does from another GPU, so that wgrad regroups it; otherwise wgrad
        quantizes the numbers once more, along tokens.
    gradient_floor : float, optional
        Least amax of a tile of dy; the rule's if None.
    hadamard : int, optional
        Width of a random Hadamard rotation of both operands of wgrad along tokens, as NVFP4 training has it
        (16). Tokens are filled up to a multiple of it with zeros, which then take part.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic makes the scales of schemes that name none.
    accumulator : str
        See `accumulators`; "float64" for operands of float64.
    promote_every : int or None
        See `matmul_nt`.

    Raises
    ------
    ValueError, TypeError
        A scheme that makes no sense for an operand, an accumulator that does not take the formats, options of
        scales for operands that have none.

    Examples
    --------
    >>> from dsv3_numerics.training import LinearRecipe
    >>> str(LinearRecipe(accumulator="exact", activations="e4m3:1x128:ue8m0").weights)
    'e4m3:128x128:f32'
    >>> LinearRecipe.preset("after_attention").replace(gradients="e5m2:1x128:f32").accumulator
    'hopper_fp8'
    >>> nvfp4 = LinearRecipe.preset("nvfp4")
    >>> str(nvfp4.weights), str(nvfp4.gradients), nvfp4.hadamard, nvfp4.is_random
    ('e2m1:16x16:nvfp4', 'nvfp4:stochastic', 16, True)
    """

    activations: Any = "e4m3:1x128:f32"
    weights: Any = "e4m3:128x128:f32"
    gradients: Any = "e4m3:1x128:f32"
    saved_activations: Any = None
    recompute_activations: bool = False
    gradients_arrive: bool = False
    gradient_floor: float | None = None
    hadamard: int | None = None
    rule: str = "deepseek_v3"
    accumulator: str = "hopper_fp8"
    promote_every: int | None = 128

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Every preset by its name; see `LINEAR_PRESETS` and `BLACKWELL_LINEAR_PRESETS`."""
        return {**LINEAR_PRESETS, **BLACKWELL_LINEAR_PRESETS}  # type: ignore[dict-item]

    def __post_init__(self) -> None:
        for name in ("activations", "weights", "gradients", "saved_activations"):
            if name != "saved_activations" or self.saved_activations is not None:
                object.__setattr__(self, name, _operand_scheme(name, getattr(self, name)))
        operands = {name: getattr(self, name) for name in ("activations", "weights", "gradients")}
        wide = [name for name, scheme in operands.items() if scheme.format == "float64"]
        if wide and len(wide) < len(operands):
            raise ValueError(f"{wide[0]}: found float64, expected it for activations, weights and gradients")
        if bool(wide) != (self.accumulator == "float64"):
            raise ValueError(
                f"accumulator: found {self.accumulator!r} for operands of {self.activations.format}, "
                "expected 'float64' for float64 and one of accumulators() otherwise"
            )
        if not wide:
            unit = accumulator_info(self.accumulator)
            for name, scheme in operands.items():
                if scheme.format not in unit.inputs:
                    raise ValueError(
                        f"accumulator: found {brief(self.accumulator)} for operands of {scheme.format}, but "
                        f"it takes {', '.join(unit.inputs)}"
                    )
                scaled = isinstance(scheme, Scaled)
                if unit.scale and not (
                    scaled and unit.takes_scales(SCALE_DTYPES[scheme.scale], scheme.group_k)
                ):
                    raise ValueError(
                        f"accumulator: found {unit.name!r}, which takes scales in {unit.scale} for each "
                        f"{' or '.join(map(str, unit.blocks))} products, with {name} '{scheme}'"
                    )
        self._check_unused(operands)
        if self.hadamard is not None and (positive(self.hadamard, "hadamard") & (self.hadamard - 1)):
            raise ValueError(f"hadamard: found {self.hadamard}, expected a power of two")

    def _check_unused(self, operands: Mapping[str, Scheme]) -> None:
        """Refuse options of scales where there are none."""
        needs = {
            "saved_activations": ("activations", self.saved_activations is not None),
            "recompute_activations": ("activations", self.recompute_activations),
            "gradients_arrive": ("gradients", self.gradients_arrive),
            "gradient_floor": ("gradients", self.gradient_floor is not None),
            "hadamard": ("gradients", self.hadamard is not None),
        }
        for name, (operand, given) in needs.items():
            if given and isinstance(operands[operand], Cast):
                value = getattr(self, name)
                found = str(value) if isinstance(value, Scheme) else value
                raise ValueError(
                    f"{name}: found {brief(found)}, but {operand} in {operands[operand]} have no scales"
                )
        if self.gradient_floor is not None and getattr(operands["gradients"], "scale", "") in _NO_FLOOR:
            raise ValueError(
                f"gradient_floor: found {self.gradient_floor}, but the scales of '{self.gradients}' have none"
            )

    @property
    def is_random(self) -> bool:
        """True: something is rounded or rotated at random, and whoever computes gives a seed."""
        schemes = (self.activations, self.weights, self.gradients, self.saved_activations)
        return self.hadamard is not None or any(s is not None and s.is_random for s in schemes)

    def generator(self, seed: Seed) -> np.random.Generator | None:
        """Return what random bits are drawn from; None where there are none.

        Raises
        ------
        TypeError, ValueError
            No seed although the recipe `is_random`; another kind of seed.
        """
        if not self.is_random:
            return None
        if seed is None:
            raise ValueError(
                "seed: found None, expected an integer or a numpy.random.Generator, because the recipe "
                "rounds or rotates at random"
            )
        return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed_key(seed))

    def rotation(self, seed: np.random.Generator | None) -> int | None:
        """Draw the signs that both operands of one wgrad share; None without a rotation."""
        return None if self.hadamard is None or seed is None else seed_key(seed)

    @property
    def output_dtype(self) -> np.dtype[Any]:
        """The dtype of what fprop and dgrad give."""
        return _PLAIN["float64" if self.accumulator == "float64" else "bfloat16"]

    @property
    def gradient_dtype(self) -> np.dtype[Any]:
        """The dtype of what wgrad gives, and of sums that are added to."""
        found: np.dtype[Any] = np.dtype(np.float64 if self.accumulator == "float64" else np.float32)
        return found

    def quantize_activations(
        self, x: ArrayLike | Quantized, name: str = "x", *, seed: np.random.Generator | None = None
    ) -> Operand:
        """x for fprop: tiles of a row."""
        return self._tiles(x, name, 1, self.activations, seed)

    def save_activations(
        self, x: ArrayLike | Quantized, name: str = "x", *, seed: np.random.Generator | None = None
    ) -> Operand:
        """x as it waits for wgrad."""
        return self._tiles(x, name, 1, self.saved_activations or self.activations, seed)

    def activation_columns(
        self,
        x: ArrayLike | Quantized,
        name: str = "x",
        *,
        seed: np.random.Generator | None = None,
        rotation: int | None = None,
    ) -> Operand:
        """x for wgrad: tiles of tokens, regrouped from those saved unless it is made again."""
        if not isinstance(x, Quantized) and not self.recompute_activations:
            x = self.save_activations(x, name, seed=seed)
        return self._tiles(self._rotated(x, name, rotation), name, 0, self.activations, seed)

    def quantize_gradients(
        self, dy: ArrayLike | Quantized, name: str = "dy", *, seed: np.random.Generator | None = None
    ) -> Operand:
        """dy for dgrad: tiles of a row, or blocks."""
        if self.gradients.group is not None and self.gradients.group[0] != 1:
            return self._blocks(dy, name, self.gradients, seed, self.gradient_floor)
        return self._tiles(dy, name, 1, self.gradients, seed, self.gradient_floor)

    def gradient_columns(
        self,
        dy: ArrayLike | Quantized,
        name: str = "dy",
        *,
        seed: np.random.Generator | None = None,
        rotation: int | None = None,
    ) -> Operand:
        """dy for wgrad: tiles of tokens, from the numbers, or from tiles of a row if those arrived."""
        if self.gradients_arrive:
            dy = self._tiles(dy, name, 1, self.gradients, seed, self.gradient_floor)
        dy = self._rotated(dy, name, rotation)
        return self._tiles(dy, name, 0, self.gradients, seed, self.gradient_floor)

    def quantize_weights(
        self, w: ArrayLike | Quantized, name: str = "w", *, seed: np.random.Generator | None = None
    ) -> Operand:
        """w for fprop: blocks, or tiles of a row; for dgrad too, where it is blocks."""
        return self._blocks(w, name, self.weights, seed)

    def weight_columns(
        self, w: ArrayLike | Quantized, name: str = "w", *, seed: np.random.Generator | None = None
    ) -> Operand:
        """w for dgrad: the same blocks, or tiles along the other axis, over which it is summed."""
        blocks = isinstance(w, Quantized) and w.axis is None
        if blocks or isinstance(self.weights, Cast) or self.weights.group[0] != 1:
            return self.quantize_weights(w, name, seed=seed)
        return self._tiles(w, name, 0, self.weights, seed)

    def product(self, a: Operand, b: Operand, dtype: Any, c: Any = None, out: Any = None) -> Array:
        """Return ``a @ b.T``, added to `c`."""
        if self.accumulator != "float64":
            every, unit = self.promote_every, self.accumulator
            return matmul_nt(a, b, c=c, accumulator=unit, promote_every=every, dtype=dtype, out=out)
        assert not isinstance(a, Quantized)
        assert not isinstance(b, Quantized)
        result = np.asarray(a @ b.T)
        if c is not None:
            start, _ = source(as_array(c, "c"), "c")
            if start.shape != result.shape:
                raise ValueError(f"c: found shape {start.shape}, expected {result.shape}, that of the result")
            result = start + result
        destination(out, result.shape, _PLAIN["float64"])  # for its checks
        return deliver(result, out)

    def _rotated(self, x: ArrayLike | Quantized, name: str, rotation: int | None) -> ArrayLike | Quantized:
        """Rotate groups of tokens, filled up with zeros to whole ones."""
        if rotation is None or self.hadamard is None:
            return x
        numbers = x.dequantize() if isinstance(x, Quantized) else matrix(x, name)
        more = -len(numbers) % self.hadamard
        whole = np.concatenate([numbers, np.zeros((more, numbers.shape[1]), numbers.dtype)])
        return random_hadamard(whole, seed=rotation, width=self.hadamard, axis=0)

    def _tiles(
        self,
        x: ArrayLike | Quantized,
        name: str,
        axis: int,
        scheme: Scheme,
        seed: np.random.Generator | None,
        floor: float | None = None,
    ) -> Operand:
        if isinstance(scheme, Cast):
            return _plain(x, name, scheme)
        assert isinstance(scheme, Scaled)
        tile = scheme.group_k
        if isinstance(x, Quantized):
            check_matrix(x.shape, name)
            if x.axis == axis and x.block == (tile or max(x.shape[axis], 1),):
                return x
            if x.format == scheme.format and scheme.rounding is None and scheme.scale != "nvfp4":
                return requantize_tiles(x, axis=axis, tile=tile, floor=floor)
            x = x.dequantize()
        found: Quantized = scheme.with_rule(self.rule).encode(
            matrix(x, name), axis=axis, floor=floor, seed=_seed_of(scheme, seed)
        )
        return found

    def _blocks(
        self,
        w: ArrayLike | Quantized,
        name: str,
        scheme: Scheme,
        seed: np.random.Generator | None,
        floor: float | None = None,
    ) -> Operand:
        if isinstance(scheme, Cast):
            return _plain(w, name, scheme)
        if isinstance(w, Quantized):
            check_matrix(w.shape, name)
            return w
        found: Quantized = scheme.with_rule(self.rule).encode(
            matrix(w, name), floor=floor, seed=_seed_of(scheme, seed)
        )
        return found


@dataclass(frozen=True)
class ExpertRecipe(PresetFamily):
    """How an expert computes in training; by default as DeepSeek-V3 does on Hopper.

    Attributes
    ----------
    up, down : LinearRecipe or str
        Of gate and up, and of down; names are presets. The dy of gate and up are those that SwiGLU's backward
        makes.
    saved : str or Scheme
        How SwiGLU's inputs wait for backward; "none": as they are. The report does not say which scales; open
        code for Hopper has float32.
    compute : {"float32", "bf16", "float64"}
        What SwiGLU and its backward round. bf16: every operation, as torch does, and gate's and up's Dgrads
        before they are added. float32: their results only, as one kernel does that hands them to the
        quantizer, and the sum of both Dgrads is one float32 sum. float64: nothing.

    Raises
    ------
    ValueError, TypeError
        An unknown name; a scheme that cannot be saved.

    Examples
    --------
    >>> from dsv3_numerics.training import ExpertRecipe
    >>> str(ExpertRecipe().up.activations), str(ExpertRecipe().down.gradients)
    ('e4m3:1x128:ue8m0', 'e4m3:1x128:ue8m0')
    """

    up: Any = "up_projection"
    down: Any = "down_projection"
    saved: Any = "e4m3:1x128:f32"
    compute: str = "float32"

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Every preset by its name; see `EXPERT_PRESETS` and `BLACKWELL_EXPERT_PRESETS`."""
        return {**EXPERT_PRESETS, **BLACKWELL_EXPERT_PRESETS}  # type: ignore[dict-item]

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            object.__setattr__(self, name, LinearRecipe.of(getattr(self, name), name))
        object.__setattr__(self, "compute", dtype_word(self.compute))
        one_of(self.compute, "compute", COMPUTE)
        scheme = _parsed("saved", self.saved)
        if not isinstance(scheme, Identity):
            _check_rows("saved", scheme)
        object.__setattr__(self, "saved", scheme)

    @property
    def is_random(self) -> bool:
        """True: something is rounded or rotated at random, and whoever computes gives a seed."""
        return bool(self.up.is_random or self.down.is_random or self.saved.is_random)

    def generator(self, seed: Seed) -> np.random.Generator | None:
        """Return what random bits are drawn from; None where there are none. See `LinearRecipe.generator`."""
        random = next((recipe for recipe in (self.up, self.down) if recipe.is_random), None)
        if random is None and self.saved.is_random:
            random = self.up.replace(activations=self.saved)
        return None if random is None else random.generator(seed)

    def save(self, a: Array, *, seed: np.random.Generator | None = None) -> Operand:
        """Return an input of SwiGLU as it waits for backward."""
        if self.saved.is_identity:
            return a
        seed = _seed_of(self.saved, seed)
        found: Operand = quantize(a, self.saved.with_rule(self.down.rule), seed=seed)
        return found


_NO_FLOOR = ("mx", "nvfp4")


def _seed_of(scheme: Scheme, seed: np.random.Generator | None) -> np.random.Generator | None:
    """Return the seed of a scheme that rounds at random, and none for others."""
    return seed if scheme.is_random else None


def _parsed(name: str, value: Any) -> Scheme:
    try:
        return Scheme.parse(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {str(error).removeprefix('scheme: ')}") from None


def _operand_scheme(name: str, value: Any) -> Scheme:
    """Return the scheme of an operand of a product.

    Raises
    ------
    TypeError, ValueError
        It is none, or one that products cannot take: the message says why.
    """
    scheme = _parsed(name, value)
    if isinstance(scheme, Cast):
        if scheme.format not in _PLAIN or str(scheme) not in (BF16, "float64"):
            raise ValueError(f"{name}: found '{scheme}', expected bf16, float64, or codes with scales")
        return scheme
    _check_rows(name, scheme, blocks=name in ("weights", "gradients"))
    return scheme


def _check_rows(name: str, scheme: Scheme, *, blocks: bool = False) -> None:
    """Refuse what has no scales, groups that do not fit, and formats that no quantizer takes."""
    if not isinstance(scheme, Scaled):
        raise ValueError(f"{name}: found '{scheme}', expected codes with scales, such as e4m3:1x128:f32")
    if scheme.requantize:
        raise ValueError(
            f"{name}: found '{scheme}', but nothing is quantized already; leave 'requantized' out"
        )
    if scheme.block[0] != 1 and not blocks:
        raise ValueError(f"{name}: found '{scheme}', expected groups within a row, such as 1x128")
    reason = scheme.problem()
    if reason:
        raise ValueError(f"{name}: found '{scheme}': {reason}")


def _plain(x: ArrayLike | Quantized, name: str, scheme: Cast) -> Array:
    if isinstance(x, Quantized):
        check_matrix(x.shape, name)
        return x.dequantize(_PLAIN[scheme.format])
    found: Array = quantize(matrix(x, name), scheme)
    return found


def matrix(x: Any, name: str) -> Array:
    """Numbers with two axes."""
    array, _ = source(as_array(x, name), name)
    check_matrix(array.shape, name)
    return array


def operand(x: Any, name: str) -> Operand:
    """Numbers or codes with two axes."""
    if not isinstance(x, Quantized):
        return matrix(x, name)
    check_matrix(x.shape, name)
    return x


def check_matrix(shape: tuple[int, ...], name: str) -> None:
    """Two axes."""
    if len(shape) != 2:
        raise ValueError(f"{name}: found shape {shape}, expected two axes")


def check_pair(a: str, left: Any, i: int, b: str, right: Any, j: int) -> None:
    """Axis i of one as long as axis j of the other."""
    if left.shape[i] != right.shape[j]:
        raise ValueError(
            f"{a} and {b}: found shapes {left.shape} and {right.shape}, expected axis {i} of {a} as long as "
            f"axis {j} of {b}, because the sum runs over them"
        )


def _unscaled(name: str, accumulator: str) -> LinearRecipe:
    """All operands in one format without scales."""
    return LinearRecipe(name, name, name, accumulator=accumulator, promote_every=None)


LINEAR_PRESETS: Mapping[str, LinearRecipe] = {
    "float64": _unscaled("float64", "float64"),
    "bf16": _unscaled("bf16", "hopper_bf16"),
    "deepseek_v3": LinearRecipe(),
    "after_attention": LinearRecipe("e4m3:1x128:ue8m0", saved_activations="e5m6:1x128:ue8m0"),
    "up_projection": LinearRecipe("e4m3:1x128:ue8m0"),
    "down_projection": LinearRecipe(
        gradients="e4m3:1x128:ue8m0", gradients_arrive=True, recompute_activations=True
    ),
}
"""Recipes of a layer by name: what FP8 is compared with, V3's for any layer, and the three places that the
report treats specially (3.3.3 and 3.5.2): the layer after attention, whose x waits for wgrad in E5M6; the
experts' gate and up projections, whose x arrives in FP8; and their down projection, whose dy does, and whose
x is made again. Scales that wgrad regroups are powers of two there, so that nothing is rounded a second time.

Assumed, because the report does not say it: fprop after attention takes E4M3 with the same kind of scales,
and E5M6 becomes E4M3 when it is regrouped, since no tensor core takes E5M6."""

_MXFP8 = LinearRecipe(
    "mxfp8:rceil",
    "e4m3:32x32:mx:rceil",
    "mxfp8:rceil",
    saved_activations="bf16",
    accumulator="blackwell_mxf8",
    promote_every=None,
)
_NVFP4 = LinearRecipe(
    "nvfp4",
    "e2m1:16x16:nvfp4",
    "nvfp4:stochastic",
    saved_activations="bf16",
    hadamard=16,
    accumulator="blackwell_nvfp4",
    promote_every=None,
)

BLACKWELL_LINEAR_PRESETS: Mapping[str, LinearRecipe] = {"mxfp8": _MXFP8, "nvfp4": _NVFP4}
"""Recipes on block-scaled units, x for wgrad quantized from bfloat16: MXFP8 with weights in 32x32 blocks, so
that both products with a weight take the same codes; and NVFP4 as NVIDIA trains with it (arXiv 2509.25149):
weights in 16x16 blocks, stochastic rounding of gradients, both operands of wgrad rotated along tokens."""

EXPERT_PRESETS: Mapping[str, ExpertRecipe] = {
    "float64": ExpertRecipe("float64", "float64", "none", "float64"),
    "bf16": ExpertRecipe("bf16", "bf16", "none", "bf16"),
    "deepseek_v3": ExpertRecipe(),
}
"""Recipes of an expert by name."""

BLACKWELL_EXPERT_PRESETS: Mapping[str, ExpertRecipe] = {
    name: ExpertRecipe(up, up.replace(saved_activations=None, recompute_activations=True), "none")
    for name, up in BLACKWELL_LINEAR_PRESETS.items()
}
"""The same of an expert; SwiGLU's inputs wait as they are, and its output is made again."""
