"""Resolution: which dialect holds each weight of a checkpoint, decided from headers and configuration.

Lives here: `resolve` and its result. Each tensor of codes is held against every row of the table; one row
must fit, in names, dtypes and shapes, and agree with what is declared. Where none fits the closest is named
with the reason; where two fit and mean different numbers both are. What is known by its name or declared and
belongs to nothing is a problem. No weight is read; only tiny companions are (``weight_shape``).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .declared import Declaration, form_text
from .dialects import DIALECTS, MODIFIERS, RAW, SCALE_ENDS, UNSUPPORTED, Dialect, expand, weight_of
from .dtypes import SCALED
from .forms import FORMS, Ask, Grid, Shape, matrices
from .index import shown
from .scan import Problem, TensorInfo
from .stored import WORDS, Contents, StoredWeight

# Small dtypes: tensors of them hold codes, or nothing that is a weight.
_CODES = (*SCALED, "U8", "I8", "F4", "F6_E2M3", "F6_E3M2")
# Integers that are no weights, unless several codes are in each.
_WORDS = ("I16", "U16", "I32", "U32", "I64", "U64")
_SMALL = 1 << 16  # bytes of a companion that is read
_COMFY = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
COMFY_METADATA = "_quantization_metadata"
_COMFY_MARKER = "{m}.comfy_quant"
_UNSUPPORTED = tuple(UNSUPPORTED)


def _parts(template: str) -> tuple[bool, str]:
    """Split a template: True for the weight's whole name, and what follows."""
    return template[:3] == "{x}", template[3:]


_MODIFIERS = [_parts(template) for template in MODIFIERS]
_KNOWN = {
    row.name: [_parts(t) for t in (row.codes, row.scale, row.second, *row.needs, *row.companions) if t]
    for row in DIALECTS
}
# Rows by the dtype of codes, with the names of codes and of scales.
_CANDIDATES: dict[str, list[tuple[Dialect, bool, str, bool, str]]] = defaultdict(list)
for _row in DIALECTS:
    for _dtype in _row.code_dtypes:
        _CANDIDATES[_dtype].append((_row, *_parts(_row.codes), *_parts(_row.scale)))


class _Miss(NamedTuple):
    """A row that does not fit: how far it came, and why it went no further."""

    dialect: Dialect
    depth: int
    reason: str
    tensor: TensorInfo


def resolve(
    infos: Mapping[str, TensorInfo],
    declaration: Declaration,
    read: Callable[[TensorInfo], bytes],
    *,
    folder: str,
    comfy: Mapping[str, str],
    missing_scale: float | None = None,
) -> Contents:
    """Find the dialect of every low-precision weight.

    Parameters
    ----------
    infos : mapping of str to TensorInfo
    declaration : Declaration
    read : callable
        Gives the bytes of a tiny tensor.
    folder : str
        For messages.
    comfy : mapping of str to str
        `COMFY_METADATA` in the metadata of each file that has it.
    missing_scale : float, optional
        1: FP8 codes without scales are numbers.
    """
    return _Resolver(infos, declaration, read, folder, comfy, missing_scale).run()


_SHAPE = 5  # depth of a miss whose scales have another shape


class _Unfit(NamedTuple):
    """Why scales of some shape have no form that a row knows; after their name, if it is about them."""

    depth: int
    reason: str
    is_of_scale: bool = True


class _Resolver:
    def __init__(
        self,
        infos: Mapping[str, TensorInfo],
        declaration: Declaration,
        read: Callable[[TensorInfo], bytes],
        folder: str,
        comfy: Mapping[str, str],
        missing_scale: float | None,
    ) -> None:
        self._infos, self._declared, self._read = infos, declaration, read
        self._folder, self._comfy, self._missing = folder, comfy, missing_scale
        self._contents = Contents(declaration)
        self._misses: dict[str, list[_Miss]] = defaultdict(list)
        self._beside: dict[str, tuple[str, ...]] = {}
        self._fitting: dict[tuple[object, ...], tuple[str, Grid] | _Unfit] = {}  # by what it depends on
        self._told: set[str] = set()

    def run(self) -> Contents:
        contents = self._contents
        for text in self._declared.problems:
            self._tell(Problem("config", text))
        for info in self._infos.values():
            fits = []
            for row, is_whole, end, of_whole, scale_end in _CANDIDATES.get(info.dtype, ()):
                base = info.name.removesuffix(end)
                if not base or len(base) + len(end) != len(info.name):
                    continue
                name = base if is_whole else f"{base}.weight"
                scale = self._infos.get((name if of_whole else name.removesuffix(".weight")) + scale_end)
                fit = None if scale is None else self._fit(row, name, info, scale)
                if fit is not None:
                    fits.append(fit)
            if fits:
                self._choose(info, fits)
        self._raw()
        self._unexplained()
        self._comfy_metadata()
        return contents

    def _tell(self, problem: Problem) -> None:
        self._contents.problems.append(problem)
        self._told.update(problem.tensors)

    # --- One tensor against one row -------------------------------------------------------------------------

    def _fit(self, row: Dialect, name: str, codes: TensorInfo, scale: TensorInfo) -> StoredWeight | None:
        def miss(depth: int, reason: str, tensor: TensorInfo = scale) -> StoredWeight | None:
            self._misses[codes.name].append(_Miss(row, depth, reason, tensor))
            return None

        if scale.dtype not in row.scale_dtypes:
            expected = " or ".join(row.scale_dtypes)
            return miss(1, f"{shown(scale.name)}: found {scale.dtype}, expected {expected}")
        second = self._infos.get(expand(row.second, name)) if row.second else None
        if row.second and second is None:
            return miss(2, f"no {shown(expand(row.second, name))}, the scale of scales", codes)
        for need in row.needs:
            if expand(need, name) not in self._infos:
                return miss(2, f"no {shown(expand(need, name))}", codes)
        module = name.removesuffix(".weight")
        known = {(name if is_whole else module) + end for is_whole, end in _KNOWN[row.name]}
        beside = self._modifiers(name)
        if not known.issuperset(beside):
            stranger = next(other for other in beside if other not in known)
            return miss(3, f"{shown(stranger)} stands beside it, of which this dialect knows nothing", codes)
        if second is not None and (math.prod(second.shape) != 1 or second.dtype != "F32"):
            what = f"{second.dtype} {list(second.shape)}"
            return miss(3, f"{shown(second.name)}: found {what}, expected one F32 number", second)
        if name != codes.name and name in self._infos:
            return miss(3, f"{shown(name)}, the name of the weight as numbers, is there too", codes)
        plain = not row.packing and codes.dtype != "F4"
        shape = codes.shape if plain else self._logical(row, name, codes)
        if isinstance(shape, str):
            return miss(3, shape, codes)
        if self._declared.method not in row.methods and self._declared.method is not None:
            text = f"{self._declared.where}: quant_method: found {self._declared.method!r}"
            expected = " or ".join(repr(m) for m in row.methods if m) or "no quantization_config"
            return miss(4, f"{text}, expected {expected}", codes)
        return self._with_form(row, name, codes, scale, second, shape, miss)

    def _with_form(
        self,
        row: Dialect,
        name: str,
        codes: TensorInfo,
        scale: TensorInfo,
        second: TensorInfo | None,
        shape: Shape,
        miss: Callable[..., StoredWeight | None],
    ) -> StoredWeight | None:
        fmt, meaning = row.code_dtypes[codes.dtype], row.scale_dtypes[scale.dtype]
        key = row.name, fmt, shape, scale.dtype, scale.shape
        found = self._fitting.get(key)
        if found is None:
            found = self._fitting[key] = self._form_of(row, fmt, scale, shape)
        if isinstance(found, _Unfit):
            begin = f"{shown(scale.name)}: " if found.is_of_scale else ""
            return miss(found.depth, begin + found.reason, scale if found.depth == _SHAPE else codes)
        problem = self._comfy_problem(row, name, codes) if _COMFY_MARKER in row.needs else None
        if problem is not None:
            return miss(6, problem, codes)
        others: tuple[TensorInfo, ...] = ()
        if row.needs or row.companions:
            names = (expand(template, name) for template in (*row.needs, *row.companions))
            others = tuple(self._infos[other] for other in names if other in self._infos)
        form, grid = found
        return StoredWeight(name, row, codes, scale, second, others, fmt, shape, grid, form, meaning)

    def _form_of(self, row: Dialect, fmt: str, scale: TensorInfo, shape: Shape) -> tuple[str, Grid] | _Unfit:
        """Find the form that scales have; a reason where it is none, or two that differ."""
        asks = [Ask(shape, scale.shape, block, group) for block, group in self._sizes(row, fmt)]
        disagreement, fits = None, list[tuple[str, Grid]]()
        for form in row.forms:
            for ask in asks:
                grid = FORMS[form][1](ask)
                if grid is None:
                    continue
                problem = self._disagreement(row, fmt, form, grid, scale)
                if problem is None:
                    fits.append((form, grid))
                else:
                    disagreement = disagreement or problem
        if not fits and disagreement is not None:
            return _Unfit(6, f"{self._declared.where}: {disagreement}", is_of_scale=False)
        if not fits:
            size = f" in blocks of {asks[0].block[0]}x{asks[0].block[1]}" if "block" in row.forms else ""
            declared = f" ({self._declared.where})" if size and self._declared.block is not None else ""
            return _Unfit(
                _SHAPE,
                f"found shape {list(scale.shape)}, expected {self._expected(row, asks)} for a weight of "
                f"{list(shape)}{size}{declared}",
            )
        if len({grid.canonical() for _, grid in fits}) > 1:
            texts = " and ".join(f"{form_text(form)} of {g.high}x{g.wide}" for form, g in fits)
            return _Unfit(3, f"{list(scale.shape)} fits {texts}")
        return fits[0]

    def _disagreement(self, row: Dialect, fmt: str, form: str, grid: Grid, scale: TensorInfo) -> str | None:
        """Tell why what is declared, or known of the row, does not agree with scales of such a shape."""
        declared = self._declared
        if row.name == "deepseek_v4_experts":
            if declared.expert_dtype not in (None, "fp4"):
                return f"expert_dtype: found {declared.expert_dtype!r}, but codes are I8, two E2M1 a byte"
            if form == "block" and declared.block != (32, 32):
                return f"weight_block_size: found {declared.block}, expected [32, 32] for such scales"
        powers = declared.scale_fmt == "ue8m0" or declared.method == "mxfp8" or form == "group"
        if scale.dtype == "U8" and not powers:
            return "no scale_fmt 'ue8m0', without which bytes are no exponents"
        problem = declared.disagreement(fmt, form, grid.block)
        is_power = row.scale_dtypes[scale.dtype] == "e8m0"
        if problem is None and declared.scale_format not in (None, "e8m0" if is_power else None):
            return f"scale_format: found {declared.scale_format!r}, but scales are {scale.dtype}"
        return problem

    def _sizes(self, row: Dialect, fmt: str) -> list[tuple[tuple[int, int], int]]:
        """Blocks and lengths of groups that scales may be for, as declared or as the row has it."""
        kind = "int" if fmt.startswith("int") else "float"
        schemes = [scheme for scheme in self._declared.groups if scheme.kind == kind]
        declared = self._declared.block
        blocks = [declared] if isinstance(declared, tuple) else []
        blocks = blocks or [s.block for s in schemes if s.block is not None] or [row.block]
        groups = [row.group] if row.group else [s.group for s in schemes if s.group is not None] or [0]
        return [(block, group) for block in dict.fromkeys(blocks) for group in dict.fromkeys(groups)]

    @staticmethod
    def _expected(row: Dialect, asks: list[Ask]) -> str:
        ask = asks[0]
        grid = Grid(*matrices(ask.shape), *ask.block)
        texts = []
        for form in row.forms:
            if form == "block":
                shape = [*ask.shape[:-2], grid.down, grid.across] if len(ask.shape) > 1 else None
                texts.append("none" if shape is None else str(shape))
            elif form == "group" and ask.group and ask.shape and ask.shape[-1] % ask.group == 0:
                texts.append(str([*ask.shape[:-1], ask.shape[-1] // ask.group]))
            else:
                texts.append(FORMS[form][0])
        return " or ".join(texts)

    def _modifiers(self, name: str) -> tuple[str, ...]:
        """Names beside a weight that change its meaning."""
        if name not in self._beside:
            module = name.removesuffix(".weight")
            names = [(name if is_whole else module) + end for is_whole, end in _MODIFIERS]
            if module != name:
                names.append(module + ".scale")
            self._beside[name] = tuple(n for n in dict.fromkeys(names) if n in self._infos and n != name)
        return self._beside[name]

    def _logical(self, row: Dialect, name: str, codes: TensorInfo) -> Shape | str:
        """Return the weight's shape; a reason where codes have none."""
        shape = codes.shape
        if row.packing == "nibbles" and codes.dtype != "F4":
            if len(shape) < 2:
                return f"{shown(codes.name)}: found shape {list(shape)}, expected at least two axes"
            if row.codes.endswith("_blocks"):
                if len(shape) < 3 or shape[-1] != row.group // 2:
                    return f"{shown(codes.name)}: found shape {list(shape)}, expected [..., {row.group // 2}]"
                return (*shape[:-2], shape[-2] * row.group)
            return (*shape[:-1], shape[-1] * 2)
        if row.packing == "words":
            return self._of_words(row, name, codes)
        if codes.dtype == "F4" and (not shape or shape[-1] % 2):
            return f"{shown(codes.name)}: found shape {list(shape)}, expected an even number of columns"
        return shape

    def _of_words(self, row: Dialect, name: str, codes: TensorInfo) -> Shape | str:
        (fmt,) = row.code_dtypes.values()
        each = WORDS[fmt]
        info = self._infos[expand(row.needs[0], name)]
        values = self._integers(info)
        if values is None or len(values) < 2:
            what = f"{info.dtype} {list(info.shape)}"
            return f"{shown(info.name)}: found {what}, expected the integers of a shape"
        expected = (*values[:-1], -(-values[-1] // each)) if min(values) >= 0 else None
        if expected != codes.shape:
            return (
                f"{shown(info.name)} says {list(values)}, in words of {each} codes {list(expected or ())}, "
                f"but {shown(codes.name)} is {list(codes.shape)}"
            )
        return values

    def _integers(self, info: TensorInfo) -> Shape | None:
        width = {"I32": 4, "I64": 8}.get(info.dtype)
        if width is None or len(info.shape) != 1 or info.nbytes > _SMALL:
            return None
        data = self._read(info)
        return tuple(
            int.from_bytes(data[at : at + width], "little", signed=True) for at in range(0, len(data), width)
        )

    # --- Several rows ---------------------------------------------------------------------------------------

    def _choose(self, info: TensorInfo, fits: list[StoredWeight]) -> None:
        # Where several rows say the same, the one that is named after what is declared.
        if len(fits) > 1:
            fits.sort(key=lambda fit: fit.dialect.methods[0] != self._declared.method)
        first = fits[0]
        for other in fits[1:]:
            same = (
                (other.name, other.format, other.shape, other.scale_meaning, other.dialect.divides)
                == (first.name, first.format, first.shape, first.scale_meaning, first.dialect.divides)
                and (other.second is None) == (first.second is None)
                and other.grid.canonical() == first.grid.canonical()
                and other.scale == first.scale
            )
            if not same:
                text = f"fits both {first} and {other}; leave it out with exclude, or declare which it is"
                self._problem("ambiguous", info, text, first)
                return
        if first.name in self._contents.weights:
            before = self._contents.weights[first.name]
            text = f"{shown(first.name)} is stored twice, as {before} and as {first}"
            self._problem("ambiguous", info, text, first)
            return
        self._contents.weights[first.name] = first
        for part in first.parts:
            self._contents.owner[part.name] = first.name

    def _raw(self) -> None:
        """FP8 codes beside which there is no scale at all."""
        for info in self._infos.values():
            if info.dtype not in SCALED or info.name in self._contents.owner or info.name in self._misses:
                continue
            if info.name == "scaled_fp8":
                self._contents.markers.add(info.name)
                continue
            if self._modifiers(info.name):
                continue
            if self._missing is None or self._is_scale(info.name):
                continue
            grid = Grid(*matrices(info.shape), 1, 1)
            grid = grid._replace(high=max(grid.rows, 1), wide=max(grid.cols, 1))
            fmt = RAW.code_dtypes[info.dtype]
            weight = StoredWeight(info.name, RAW, info, None, None, (), fmt, info.shape, grid, "one")
            self._contents.weights[info.name] = weight
            self._contents.owner[info.name] = info.name

    def _is_scale(self, name: str) -> bool:
        return name.endswith(SCALE_ENDS)

    # --- What is left over ----------------------------------------------------------------------------------

    def _unexplained(self) -> None:
        """Codes that no row fits, scales without weights, and kinds of files that no row describes."""
        known = self._contents.owner.keys() | self._contents.markers
        left = [info for info in self._infos.values() if info.name not in known]
        for info in left:
            if info.name in self._misses and info.name not in self._told:
                self._closest(info)
        for info in left:
            if info.name.endswith(_UNSUPPORTED) and info.name not in self._told:
                self._unsupported(info, next(end for end in UNSUPPORTED if info.name.endswith(end)))
        for info in left:
            if info.name not in self._told:
                self._leftover(info)

    def _unsupported(self, info: TensorInfo, end: str) -> None:
        """Tell of a tensor of a kind that no row describes, and of the weight that it belongs to."""
        module = info.name.removesuffix(end)
        weight = f"{module}.weight"
        names = (info.name, weight) if weight in self._infos and end != ".weight" else (info.name,)
        text = self._named(info, f"{UNSUPPORTED[end]}; no dialect here reads it")
        self._tell(Problem("not supported", text, tensors=names))

    def _closest(self, info: TensorInfo) -> None:
        misses = self._misses[info.name]
        best = max(misses, key=lambda miss: miss.depth)
        equal = [miss.dialect.name for miss in misses if miss.depth == best.depth]
        rows = " and ".join(dict.fromkeys(equal))
        known = [best.tensor.name, info.name]
        kind = "ambiguous" if best.depth == 3 and len(equal) > 1 else "scale does not fit"
        if best.depth == 6 or best.depth == 4:
            kind = "config"
        text = f"{self._folder}/{best.tensor.file}: {best.reason}"
        if best.reason.startswith(self._folder):
            text = f"{best.reason}, {shown(info.name)}"
        text += f" (closest dialect{'s' * (len(set(equal)) > 1)}: {rows})"
        weight = weight_of(best.dialect.codes, info.name)
        names = dict.fromkeys([info.name, weight or info.name, *known])
        for template in MODIFIERS:  # what stands beside it is told with it
            other = expand(template, weight or info.name)
            if other in self._infos:
                names[other] = None
        self._tell(Problem(kind, text, tensors=tuple(names)))

    def _leftover(self, info: TensorInfo) -> None:
        name = info.name
        beside = self._modifiers(name)
        if info.dtype in _CODES and beside and not self._is_scale(name):
            text = f"{info.dtype} beside {shown(beside[0])}, which fits no dialect"
            self._tell(Problem("scale does not fit", self._named(info, text), tensors=(name, *beside)))
            return
        if info.dtype in SCALED and not self._is_scale(name):
            expected = shown(name + "_scale_inv")
            text = (
                f"{info.dtype} without scales, expected {expected}; if codes are the numbers, say so with "
                "missing_scale=1 (--missing-scale 1), or exclude it to copy it as it is"
            )
            self._problem("scale missing", info, text)
            return
        owner = self._base_of(name)
        if owner is not None:
            self._orphan(info, owner)
        elif self._is_suspicious(info):
            text = f"{info.dtype} {list(info.shape)} looks like packed codes, which no dialect explains"
            self._problem("not understood", info, text)

    def _orphan(self, info: TensorInfo, owner: str) -> None:
        weight = self._infos.get(owner)
        if weight is None:
            self._problem(
                "scale without weight", info, f"the weight that it is for, {shown(owner)}, is not there"
            )
            return
        text = f"{shown(owner)} has scales, but is {weight.dtype}; expected {' or '.join(SCALED)}"
        file = f"{self._folder}/{info.file}"
        names = (info.name, owner)
        self._tell(Problem("scale does not fit", f"{file}: {text}", tensors=names))

    def _base_of(self, name: str) -> str | None:
        """Return the weight that a tensor is a scale of, by its name; None where the name says nothing."""
        for end in ("_scale_inv", "_scale_2", "_global_scale", "_scale"):
            base = name.removesuffix(end)
            if base == name:
                continue
            if base in self._infos and (end == "_scale_inv" or base.endswith(".weight")):
                return base
            if name.endswith(SCALE_ENDS) or end == "_scale_inv":
                return base
        for end in (".scale_weight", ".qscale_weight"):
            if name.endswith(end):
                return name.removesuffix(end) + ".weight"
        if name.endswith("_scales") and name.removesuffix("_scales") + "_blocks" not in self._infos:
            return name.removesuffix("_scales") + "_blocks" if self._infos[name].dtype == "U8" else None
        return None

    def _is_suspicious(self, info: TensorInfo) -> bool:
        """Tell if a tensor of small integers is likely to be codes."""
        if info.name.endswith((".weight_packed", "_blocks")) and info.dtype in ("I32", "U8", "I8"):
            return True
        if info.dtype in ("F4", "F6_E2M3", "F6_E3M2"):
            return True
        if len(info.shape) < 2:
            return False
        named = info.name.endswith((".weight", "_proj"))
        return (named and info.dtype in _WORDS) or (
            info.dtype in _CODES and (named or bool(self._declared.sections))
        )

    def _comfy_problem(self, row: Dialect, name: str, codes: TensorInfo) -> str | None:
        """Tell why a ``comfy_quant`` marker means something else; None if it means this."""
        info = self._infos[expand(_COMFY_MARKER, name)]
        try:
            content = json.loads(self._read(info)) if info.nbytes <= _SMALL else None
        except (ValueError, RecursionError):
            content = None
        content = content if isinstance(content, dict) else {}
        found = content.get("format")
        if not isinstance(found, str) or _COMFY.get(found) != codes.dtype:
            return f"{shown(info.name)}: found format {shown(found)}, but codes are {codes.dtype}"
        strange = set(content) - {"format", "full_precision_matrix_mult"}
        return (
            f"{shown(info.name)}: found {shown(sorted(strange)[0])}, which is not known" if strange else None
        )

    def _comfy_metadata(self) -> None:
        """Check that formats in a file's metadata (ComfyUI) are those of the weights."""
        for file, text in self._comfy.items():
            where = f"{self._folder}/{file}: metadata {COMFY_METADATA}"
            try:
                layers = json.loads(text)["layers"]
                formats = {name: layer["format"] for name, layer in layers.items()}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                self._tell(Problem("config", f"{where}: not understood"))
                continue
            for name, fmt in formats.items():
                weight = self._contents.weights.get(f"{name}.weight")
                if not isinstance(fmt, str) or weight is None or _COMFY.get(fmt) != weight.codes.dtype:
                    said = f"{where}: {shown(name)} is said to be {shown(fmt)}"
                    names = (f"{name}.weight",)
                    self._tell(Problem("config", f"{said}, which no dialect here reads so", tensors=names))
                    break

    def _problem(self, kind: str, info: TensorInfo, text: str, weight: StoredWeight | None = None) -> None:
        names = [info.name] + ([weight.name, *(part.name for part in weight.parts)] if weight else [])
        self._tell(Problem(kind, self._named(info, text), tensors=tuple(dict.fromkeys(names))))

    def _named(self, info: TensorInfo, text: str) -> str:
        return f"{self._folder}/{info.file}: {shown(info.name)}: {text}"
