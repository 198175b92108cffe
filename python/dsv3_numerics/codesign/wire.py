"""Part ``ep``: dispatch and combine of experts over a network, and the time of a token that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .checks import integer, number
from .figures import ISCA, Answer, Figure
from .formats import check_wire, row_bytes
from .hardware import Hardware, machines, read_hardware
from .measured import low_latency_fit, measured
from .plots import EP_PLOTS
from .reader import read_shape
from .shape import Moe, Shape
from .texts import human

PAPER = {50e9: (120.96e-6, 14.76e-3, 67), 900e9: (6.72e-6, 0.82e-3, 1200)}
"""Section 2.3.2: seconds of dispatch and combine, TPOT, and tokens a second, by bytes a second."""


_SHOWN = (
    ("e4m3:1x128:f32", "bf16"),
    ("e4m3:1x128:ue8m0", "e5m6:1x128:ue8m0"),
    ("e4m3:1x128:ue8m0", "logfmt10"),
    ("e4m3:1x128:ue8m0", "logfmt8"),
)


@dataclass(frozen=True)
class Step:
    """Dispatch and combine of one micro-batch in one layer: bytes sent, and seconds."""

    dispatch_bytes: float
    combine_bytes: float
    dispatch: float
    combine: float

    @property
    def seconds(self) -> float:
        """Both, one after the other."""
        return self.dispatch + self.combine


def ep_step(
    hidden: int,
    *,
    dispatch: str,
    combine: str,
    bandwidth: float,
    tokens: int = 32,
    destinations: float = 9,
    remote: float = 1.0,
    alpha: float = 0.0,
) -> Step:
    """Time of dispatch and combine: copies by the bytes of a row over the bandwidth, `alpha` a transfer.

    Examples
    --------
    >>> from dsv3_numerics.codesign import ep_step
    >>> round(ep_step(7000, dispatch="fp8_bare", combine="bf16", bandwidth=50e9).seconds * 1e6, 2)
    120.96
    """
    tokens = integer(tokens, "tokens", 1, 1 << 40)
    number(destinations, "destinations", positive=True)
    number(remote, "remote", most=1.0)
    number(bandwidth, "bandwidth", positive=True)
    number(alpha, "alpha")
    copies = tokens * destinations * remote
    sent = [copies * row_bytes(name, hidden) for name in (dispatch, combine)]
    return Step(*sent, *(size / bandwidth + alpha for size in sent))


def tpot(step: Step, layers: int, micro: int = 2) -> float:
    """Seconds an output token: `micro` micro-batches one after the other on the wire, in every layer."""
    return layers * micro * step.seconds


def ep(
    config: object,
    hardware: str | Hardware = "h800",
    *,
    dispatch: str = "e4m3:1x128:f32",
    combine: str = "bf16",
    tokens: int = 32,
    destinations: float | None = None,
    remote: float = 1.0,
    alpha: float = 0.0,
    layers: int | str = "all",
    micro: int = 2,
    hidden: int | None = None,
    effective: bool = False,
    latency: bool = False,
    check: bool = False,
    changes: Sequence[str] = (),
) -> Answer:
    """Part ``ep``: bytes and time of dispatch and combine, and the bound on TPOT that follows.

    Parameters
    ----------
    config, hardware : model and machine
    dispatch, combine : str
        Schemes, as a recipe spells them; ``fp8_bare`` is the paper's dispatch.
    tokens : int
        Of a device and micro-batch.
    destinations : float, optional
        Copies of a token; by default chosen and shared experts.
    remote : float
        Share of copies that go over the network.
    alpha : float
        Fixed seconds a transfer; `latency`: the machine's own.
    layers : int, "all" or "moe"
    micro : int
        Micro-batches, one after the other on the wire.
    hidden : int, optional
        Width of a row, by default the model's.
    effective : bool
        The network as reached, not as named.
    check : bool
        Add public measurements.
    changes : sequence of str
        Figures of the machine, each ``key=value``.

    Raises
    ------
    ValueError
        A model without experts; figures out of range; a format that does not go this way.
    """
    shape, machine = read_shape(config), read_hardware(hardware, changes)
    check_wire(dispatch, "dispatch")
    check_wire(combine, "combine")
    moe = shape.moe
    if moe is None:
        raise ValueError(f"config: {shape.name} has no experts, which expert parallelism needs")
    micro = integer(micro, "micro", 1, 1024)
    count = _layers(shape, layers)
    destinations = moe.chosen + moe.shared if destinations is None else destinations
    width = shape.hidden if hidden is None else integer(hidden, "hidden", 1, 1 << 30)
    bandwidth = machine.need("network_effective" if effective else "network", "dispatch")
    alpha = machine.latency if latency else alpha
    step = ep_step(
        width,
        dispatch=dispatch,
        combine=combine,
        bandwidth=bandwidth,
        tokens=tokens,
        destinations=destinations,
        remote=remote,
        alpha=alpha,
    )
    seconds = tpot(step, count, micro)
    rows: list[dict[str, Any]] = [
        _row("dispatch", step.dispatch_bytes, step.dispatch),
        _row("combine", step.combine_bytes, step.combine),
        _row("layer", micro * (step.dispatch_bytes + step.combine_bytes), micro * step.seconds),
        _row("tpot", count * micro * (step.dispatch_bytes + step.combine_bytes), seconds),
    ]
    each = f"{tokens} x {destinations:g} x {remote:g} x"
    sums = f"({row_bytes(dispatch, width):g} + {row_bytes(combine, width):g}) B / {human(bandwidth, 'B/s')}"
    source = f"{ISCA}, section 2.3.2; {machine.name}: {machine.source}"
    per_second = 1 / seconds if seconds else None
    figures = [
        Figure(
            "dispatch and combine", step.seconds, "s", "bound", source, f"{each} {sums} + 2 x {alpha:g} s"
        ),
        Figure("layer", micro * step.seconds, "s", "bound", source, f"{micro} micro-batches, one by one"),
        Figure("tpot", seconds, "s", "bound", source, f"{count} layers x {human(micro * step.seconds, 's')}"),
        Figure("tokens_per_second", per_second, "tok/s", "bound", source, "1 / tpot"),
    ]
    figures += _beside(bandwidth)
    notes = [
        *shape.notes,
        "a bound, not a prediction: attention, experts' compute and fixed time of transfers come on top",
    ]
    if check:
        more_rows, more = _check()
        rows += more_rows
        figures += more
    inputs: dict[str, Any] = {
        "config": shape.name,
        "hardware": machine.name,
        "dispatch": dispatch,
        "combine": combine,
    }
    inputs |= {"tokens": tokens, "destinations": destinations, "remote": remote, "alpha": alpha}
    inputs |= {"layers": count, "micro": micro, "hidden": width, "bandwidth": bandwidth}
    copies = count * micro * tokens * destinations * remote
    pairs = dict.fromkeys([(dispatch, combine), ("bf16", "bf16"), *_SHOWN])
    curves = {
        "bytes": {f"{d} / {c}": copies * (row_bytes(d, width) + row_bytes(c, width)) for d, c in pairs},
        "fixed": count * micro * 2 * alpha,
        "machines": {name: row.network for name, row in machines().items() if row.network},
    }
    columns = ("step", "bytes", "seconds", "bound_by")
    return Answer("ep", inputs, figures, columns, rows, notes, {"curves": curves}, EP_PLOTS)


def _layers(shape: Shape, layers: int | str) -> int:
    if layers == "all":
        return len(shape.layers)
    if layers == "moe":
        return sum(isinstance(layer.mlp, Moe) for layer in shape.layers)
    if isinstance(layers, str) and not layers.isdecimal():
        raise ValueError(f"layers: found {layers!r}, expected all, moe or a number")
    return integer(int(layers), "layers", 1, 100_000)


def _row(step: str, size: float, seconds: float) -> dict[str, Any]:
    return {"step": step, "bytes": size, "seconds": seconds, "bound_by": "network"}


def _beside(bandwidth: float) -> list[Figure]:
    found = []
    for speed, (step, layer, rate) in PAPER.items():
        if speed == bandwidth:
            source = f"{ISCA}, section 2.3.2"
            found.append(
                Figure(
                    "paper, DeepSeek-V3: dispatch and combine", step, "s", "published", source, "7K is 7000"
                )
            )
            found.append(
                Figure("paper, DeepSeek-V3: tpot", layer, "s", "published", source, "61 layers, bare FP8")
            )
            found.append(
                Figure(
                    "paper, DeepSeek-V3: tokens_per_second", rate, "tok/s", "published", source, "truncated"
                )
            )
    low, high = measured("day6")["tokens_per_second_user"]
    text, source = f"{low} to {high}", measured("day6")["source"]
    found.append(Figure("DeepSeek's service, a user", text, "tok/s", "published", source, "3 times below 67"))
    return found


def _check() -> tuple[list[dict[str, Any]], list[Figure]]:
    """Return the two public tables: bandwidths over the network, and fits of fixed time and bandwidth."""
    table = measured("deepep_low_latency")
    rows = []
    figures = []
    for i, ranks in enumerate(table["ranks"]):
        for way, form in (("dispatch", "e4m3:1x128:f32"), ("combine", "bf16")):
            size = table["tokens"] * table["chosen"] * row_bytes(form, table["hidden"])
            seconds = table[f"{way}_us"][i] * 1e-6
            over = size * (1 - 8 / ranks) / seconds
            rows.append(
                {"step": f"DeepEP EP{ranks} {way}", "bytes": size, "seconds": seconds, "bound_by": "measured"}
            )
            how = f"{human(size / seconds, 'B/s')} as printed, x (1 - 8/{ranks}) without the own node"
            name = f"DeepEP EP{ranks} {way}, over the network"
            figures.append(Figure(name, over, "B/s", "measured elsewhere", table["source"], how))
    for way in ("dispatch", "combine"):
        fit = low_latency_fit(way)
        how = f"alpha {fit.alpha * 1e6:.1f} us; relative errors: worst {fit.worst:.1%}, rms {fit.rms:.1%}"
        source = f"{measured('h200_low_latency')['source']}: 2 to 8 nodes, 2 to 256 tokens"
        figures.append(Figure(f"H200 {way}, fitted bandwidth", fit.rate, "B/s", "fitted", source, how))
    return rows, figures
