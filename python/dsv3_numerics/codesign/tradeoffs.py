"""Part ``tradeoff``: formats of dispatch, combine and cache as bytes, bound on time, and measured error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from .attention import Mla
from .caches import chosen_format
from .checks import integer, number, one_of
from .errors import CHOICES, ErrorTable, stored_errors
from .figures import ISCA, Answer, Figure
from .formats import COMMON, canonical, check_wire, row_bytes
from .hardware import Hardware, read_hardware
from .operations import users_that_fit, weights_on_gpu
from .plots import TRADEOFF_PLOTS
from .reader import read_shape
from .shape import Shape
from .sizes import kv_bytes
from .texts import human
from .wire import ep_step, tpot

if TYPE_CHECKING:
    from ..model import Recipe


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell which points no other beats: no worse in both and better in one; equal points all stay.

    Examples
    --------
    >>> from dsv3_numerics.codesign.tradeoffs import front
    >>> front([(125.2, 0.021), (95.5, 0.003), (85.2, 0.013), (95.5, 0.003)])
    [False, True, True, True]
    """
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def read_seconds(shape: Shape, hardware: Hardware, batch: int, tokens: int, cache: str) -> float:
    """Seconds to read a layer's cache of a batch: a bound by memory."""
    record = chosen_format(shape, cache).record(shape.layers[0].attention)
    return batch * tokens * record / hardware.need("memory", "cache")


def tradeoff(
    config: object = "deepseek_v3",
    hardware: str | Hardware = "h800",
    *,
    recipe: Recipe | str = "deepseek_v3",
    vary: Sequence[str] | None = None,
    errors: ErrorTable | None = None,
    tokens: int = 32,
    destinations: float | None = None,
    batch: int = 128,
    context: int = 4096,
    ep: int | None = None,
    redundant: int = 0,
    keep: float = 10e9,
    coding: tuple[float, float] | None = None,
    changes: Sequence[str] = (),
) -> Answer:
    """Part ``tradeoff``: every combination of formats with its bytes, time and error, and the best of them.

    Parameters
    ----------
    config, hardware : model and machine
    recipe : Recipe or str
        A recipe, a preset or a JSON file; formats that do not vary are its own.
    vary : sequence of {"dispatch", "combine", "cache"}, optional
        By default what the errors cover.
    errors : ErrorTable, optional
        See `errors`; by default those of `experiment combine` that come with the package.
    tokens, destinations : int, number
        Of a device and micro-batch; copies of a token, by default chosen and shared experts.
    batch, context : int
        Users a GPU and tokens of each, whose cache is read.
    ep, redundant, keep : int, int, float
        GPUs (by default for two experts each), redundant experts, bytes kept free, as for `roofline`.
    coding : (low, high), optional
        Cost of coding LogFMT, as a share of the transfer; the paper's fused kernel has .5 to 1.

    Raises
    ------
    ValueError
        No error for any row; formats that do not go together.
    """
    from ..model import Recipe

    shape, machine = read_shape(config), read_hardware(hardware, changes)
    moe = shape.moe
    if moe is None or not isinstance(shape.layers[0].attention, Mla):
        raise ValueError(
            f"config: {shape.name} is no model of MLA with experts, whose formats are traded here"
        )
    table = stored_errors() if errors is None else errors
    names = table.covers if vary is None else tuple(vary)
    for name in names:
        one_of(name, "vary", CHOICES)
    base = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
    own = {
        name: "bf16" if str(getattr(base, name)) == "none" else str(getattr(base, name)) for name in CHOICES
    }
    for name in ("dispatch", "combine"):
        check_wire(own[name], name)
    gpus = _gpus(moe.experts, redundant) if ep is None else integer(ep, "ep", 1, 1 << 20)
    if (moe.experts + redundant) % gpus:
        raise ValueError(f"ep: found {gpus}, expected a divisor of {moe.experts} + {redundant} experts")
    local = (moe.experts + redundant) // gpus
    destinations = moe.chosen + moe.shared if destinations is None else destinations
    batch, context = integer(batch, "batch", 1, 1 << 24), integer(context, "context", 1, 1 << 30)
    low, high = (number(c, "coding") for c in coding or (0.0, 0.0))
    if low > high:
        raise ValueError(f"coding: found {low:g}:{high:g}, expected LOW:HIGH")
    bandwidth, weights = machine.need("network", "dispatch"), weights_on_gpu(shape, local)
    capacity = machine.need("capacity", "users")
    rows: list[dict[str, Any]] = []
    for formats in product(*(_options(n, table) if n in names else (own[n],) for n in CHOICES)):
        choice = dict(zip(CHOICES, formats, strict=True))
        step = ep_step(
            shape.hidden,
            dispatch=choice["dispatch"],
            combine=choice["combine"],
            bandwidth=bandwidth,
            tokens=tokens,
            destinations=destinations,
        )
        cache = kv_bytes(shape, context, choice["cache"])
        row: dict[str, Any] = choice | {
            "bytes_sent": step.dispatch_bytes + step.combine_bytes,
            "us": step.seconds * 1e6,
            "tpot_ms": tpot(step, len(shape.layers)) * 1e3,
            "cache_us": read_seconds(shape, machine, batch, context, choice["cache"]) * 1e6,
            "cache_bytes": cache,
            "users": users_that_fit(capacity, keep, weights, cache),
            "error": table.find(choice),
            "error_of": table.of,
        }
        if coding is not None:
            extra = (
                [step.combine * share * 1e6 for share in (low, high)]
                if "logfmt" in choice["combine"]
                else [0, 0]
            )
            row |= {"us_low": row["us"] + extra[0], "us_high": row["us"] + extra[1]}
        rows.append(row)
    if all(row["error"] is None for row in rows):
        raise ValueError(f"errors: none of {len(rows)} rows has an error in: {table.of}")
    apart = [name for name in names if name not in table.covers]
    _mark(rows, apart)
    rows.sort(key=lambda row: (row["us"] + row["cache_us"], row["error"] is None, row["error"] or 0.0))
    figures = _figures(rows, shape, machine, tokens, destinations)
    inputs: dict[str, Any] = {
        "config": shape.name,
        "hardware": machine.name,
        "recipe": base.name,
        "vary": list(names),
    }
    inputs |= {"tokens": tokens, "destinations": destinations, "batch": batch, "context": context}
    inputs |= {"ep": gpus, "redundant": redundant, "keep": keep, "coding": list(coding) if coding else None}
    columns: tuple[str, ...] = (*CHOICES, "bytes_sent", "us", "tpot_ms", "cache_us", "cache_bytes", "users")
    columns += (("us_low", "us_high") if coding is not None else ()) + ("error", "error_of", "on_front")
    notes = _notes(rows, table, names, coding)
    data = {"apart": apart, "labels": [name for name in names if name not in apart] or list(names)}
    return Answer("tradeoff", inputs, figures, columns, rows, notes, data, TRADEOFF_PLOTS)


def _options(choice: str, table: ErrorTable) -> list[str]:
    """Return the common formats of a choice, and those that the errors have besides."""
    found = list(COMMON[choice])
    if choice in table.covers:
        known = {canonical(choice, name) for name in found}
        at = table.covers.index(choice)
        found += [name for name in dict.fromkeys(key[at] for key in table.values) if name not in known]
    return found


def _gpus(experts: int, redundant: int) -> int:
    total = experts + redundant
    return total // 2 if total % 2 == 0 else total


def _mark(rows: list[dict[str, Any]], apart: list[str]) -> None:
    """Mark the front among rows with an error and the same formats of `apart`, which no error covers."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        row["on_front"] = False
        if row["error"] is not None:
            groups.setdefault(tuple(row[name] for name in apart), []).append(row)
    for group in groups.values():
        points = [(row["us"] + row["cache_us"], row["error"]) for row in group]
        for row, on in zip(group, front(points), strict=True):
            row["on_front"] = on


def _figures(
    rows: list[dict[str, Any]], shape: Shape, machine: Hardware, tokens: int, destinations: float
) -> list[Figure]:
    found = []
    for row in rows:
        if not row["on_front"]:
            continue
        name = " / ".join(row[choice] for choice in CHOICES)
        sizes = [row_bytes(row[choice], shape.hidden) for choice in ("dispatch", "combine")]
        speed = human(machine.need("network", "dispatch"), "B/s")
        how = f"{tokens} x {destinations:g} x ({sizes[0]:g} + {sizes[1]:g}) B / {speed}"
        source = f"{ISCA}, section 2.3.2; {machine.name}"
        found.append(Figure(f"{name}: dispatch and combine", row["us"] * 1e-6, "s", "bound", source, how))
        how = "relative error: norm of the difference over the norm"
        found.append(Figure(f"{name}: error", row["error"], "", "measured", row["error_of"], how))
    return found


def _notes(
    rows: list[dict[str, Any]], table: ErrorTable, names: Sequence[str], coding: tuple[float, float] | None
) -> list[str]:
    notes = [f"times are bounds; errors are measured: {table.of}"]
    apart = [name for name in names if name not in table.covers]
    if apart:
        notes.append(
            f"the error does not cover {', '.join(apart)}: rows compare only where these formats are equal"
        )
    if table.remark:
        notes.append(table.remark)
    without = sum(row["error"] is None for row in rows)
    if without:
        notes.append(f"{without} rows have no error there and are on no front")
    if table.left_out:
        notes.append(
            f"formats of the errors that no recipe sends: {', '.join(dict.fromkeys(table.left_out))}"
        )
    if coding is None and any("logfmt" in row["combine"] for row in rows):
        notes.append(
            "coding is not free: the paper gives 50 to 100% for a fused LogFMT (3.2); --coding 0.5:1 adds it"
        )
    return notes
