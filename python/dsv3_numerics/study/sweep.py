"""The sweep: every tensor under every scheme, slab by slab.

A slab is read once and quantized under all schemes, so a file is read once (twice where a group reaches
beyond a slab). Memory is a few slabs, whatever the size of a tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._progress import Meter, Progress
from ..checkpoint import (
    Checkpoint,
    CheckpointError,
    Rows,
    Skipped,
    Source,
    Tensor,
    array_tensor,
    checkpoint_source,
    open_source,
)
from ..checkpoint.selection import selected
from ..report.running import recorded
from ..schemes import OwnScheme, Scheme
from ..tasks.journal import Journal
from ..tasks.plan import HERE, Split
from ..tasks.task import Facts, Task
from .metrics import FIELDS, Metrics, add_into, empty_row, sums_of
from .result import StudyData, TensorResult
from .saved import Study
from .slabs import SLAB_ELEMENTS, Amax, Slab, batches, plan
from .state import StudyWorker, assemble, seconds_of

DEFAULT_SCHEMES: tuple[Scheme, ...] = tuple(
    map(
        Scheme.parse,
        (
            "bf16",
            "e5m6:1x128:ue8m0",
            "logfmt10:1x128",
            "int8:1x128",
            "mxfp8",
            "e4m3:1x128:f32",
            "logfmt8:1x128",
            "e4m3:128x128:f32",
            "e4m3:128x128:ue8m0",
            "e4m3:tensor:f32",
            "e5m2:1x128:f32",
            "mxfp6",
            "int4:1x128",
            "nvfp4",
            "mxfp4",
        ),
    )
)
"""From 16 bits down to 4: a cast, DeepSeek's formats and groupings, the OCP and NVIDIA formats, integers."""

Advance = Callable[[str, float], None]
"""Called with a tensor's name and the elements just done, shared out among schemes."""

Inputs = str | Path | Sequence[str | Path] | Mapping[str, npt.ArrayLike]


def run(
    inputs: Inputs,
    schemes: Iterable[str | Scheme] = DEFAULT_SCHEMES,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    missing_scale: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    slab_elements: int = SLAB_ELEMENTS,
) -> Study:
    """Study the error of schemes on tensors.

    Parameters
    ----------
    inputs : path, sequence of paths, or mapping of str to array
        ``.safetensors``, ``.npy`` or ``.npz`` files, checkpoint folders; an open checkpoint; or arrays by
        name. Tensors of float64, float32, float16 and bfloat16 are studied, and weights in low precision as
        the numbers that they mean; others are listed in ``study.skipped`` with the reason.
    schemes : iterable of str or Scheme
        See `Scheme.parse`.
    include, exclude : sequence of str
        Shell patterns of tensor names: studied are those that match an `include` (if there is any) and no
        `exclude`.
    missing_scale : 1, optional
        Take FP8 codes without any scale for the numbers themselves; else they are left out.
    threads : int, optional
        Threads for this study; the results do not depend on it.
    progress : callable, optional
        Called as ``progress(tensor, done, total)``, in elements.
    slab_elements : int
        Elements held at a time, about.

    Returns
    -------
    Study

    Raises
    ------
    CheckpointError
        An input cannot be read (it is a ValueError).
    ValueError
        A scheme is not understood, or no tensor is selected.
    TypeError
        An array is masked, or holds Python objects.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import study
    >>> rng = np.random.default_rng(0)
    >>> found = study.run({"w": rng.normal(size=(256, 512))}, ["e4m3:1x128:f32", "e5m2:1x128:f32"])
    >>> found.metrics("w", "e4m3:1x128:f32").sqnr_db > found.metrics("w", "e5m2:1x128:f32").sqnr_db
    True
    """
    study, tensors = prepare(inputs, schemes, include=include, exclude=exclude, missing_scale=missing_scale)
    execute(study, tensors, threads=threads, progress=progress, slab_elements=slab_elements)
    return study


def measure(x: npt.ArrayLike, scheme: str | Scheme) -> Metrics:
    """Return the error of one scheme on one array.

    Parameters
    ----------
    x : array_like of float64, float32, float16 or bfloat16
        Seen as a matrix: the last axis is the columns, the others are rows.
    scheme : str or Scheme

    Raises
    ------
    ValueError
        There is nothing to measure (empty, 0-d, integers, NaN or Inf), or the scheme is not understood.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.study import measure
    >>> measure(np.eye(4, dtype=np.float32), "int8:row").relative_error < 1e-6
    True
    """
    study = run({"x": x}, [scheme])
    if study.skipped:
        raise ValueError(f"x: {study.skipped[0].reason}")
    return Metrics.of(study.tensors[0].sums[0])


class Selection(NamedTuple):
    """Tensors that a study is of: globs of names, and the scale of codes that have none."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    missing_scale: float | None = None

    def takes(self, name: str) -> bool:
        """Tell whether a tensor is selected."""
        return selected(name, self.include, self.exclude)

    def settings(self) -> dict[str, Any]:
        """Return what a result says of it."""
        scale = {} if self.missing_scale is None else {"missing_scale": self.missing_scale}
        return {"include": list(self.include), "exclude": list(self.exclude), **scale}


def prepare(
    inputs: Inputs,
    schemes: Iterable[str | Scheme],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    missing_scale: float | None = None,
) -> tuple[Study, list[Tensor]]:
    """Make an empty study and the tensors that it is to be of; raises as `run` does."""
    chosen = choose(schemes)
    selection = Selection(include, exclude, missing_scale)
    source = gather(inputs, missing_scale)
    tensors = [t for t in source.tensors if selection.takes(t.name)]
    skipped = [s for s in source.skipped if selection.takes(s.name)]
    if not tensors and not skipped:
        some = ", ".join(t.name for t in source.tensors[:3])
        raise ValueError(
            f"no tensor is selected; there are {len(source.tensors)}" + (f" ({some}, ...)" if some else "")
        )
    settings = {
        "inputs": list(inputs) if isinstance(inputs, Mapping) else [str(p) for p in _paths(inputs)],
        "schemes": [str(s) for s in chosen],
        **selection.settings(),
        "tensors_selected": len(tensors),
        "elements_selected": sum(t.size for t in tensors),
    }
    study = Study(chosen, skipped=skipped, histograms=np.zeros((len(chosen), 256, 3)), settings=settings)
    return study, tensors


def execute(
    study: Study,
    tensors: Sequence[Tensor],
    *,
    slab_elements: int = SLAB_ELEMENTS,
    **how: Any,
) -> None:
    """Study tensors; the other arguments are those of `sweep`."""
    sweep(study, tensor_worker(study, tensors, slab_elements), **how)


def tensor_worker(study: Study, tensors: Sequence[Tensor], slab_elements: int) -> StudyWorker[Tensor]:
    """Return the worker that studies tensors under the schemes of a study, which notes the size of slabs."""
    study.settings["slab_elements"] = slab_elements

    def measure(piece: StudyData, tensor: Tensor, advance: Advance) -> None:
        study_one(piece, tensor, advance, slab_elements)

    return StudyWorker(study.schemes, tensors, [(t.name, t.size) for t in tensors], measure)


def sweep(
    study: Study,
    worker: StudyWorker[Any],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
    split: Split = HERE,
) -> None:
    """Do the tasks of a study that are left, and put together what is done, however it ends.

    Tasks that the journal holds are not done again. `split` says by whom the work is done.
    """
    done = {} if journal is None else journal.done
    mine = split.tasks(worker.tasks)
    meter = Meter(progress, sum(task.cost for task in mine))
    todo = [task for task in mine if task.name not in done]
    meter.advance("", sum(task.cost for task in mine) - sum(task.cost for task in todo))
    study.seconds += seconds_of(mine, journal)

    def finished(task: Task, facts: Facts) -> None:
        if journal is None:
            done[task.name] = facts
        else:
            journal.note(task, facts)

    try:
        with recorded(study, threads):
            split.perform(worker, todo, meter.advance, finished)
    finally:
        assemble(study, mine, done)


def choose(schemes: Iterable[str | Scheme]) -> tuple[Scheme, ...]:
    """Return the schemes of a study, each once, tried before any work is done; raises as `run` does."""
    chosen = tuple(dict.fromkeys(Scheme.parse(s) for s in schemes))
    if not chosen:
        raise ValueError("schemes: found none; expected at least one")
    for scheme in chosen:
        _try(scheme)
    return chosen


def _try(scheme: Scheme) -> None:
    """Refuse before any work what the quantizer refuses: formats and scales that do not go together."""
    if isinstance(scheme, OwnScheme):
        return  # nobody knows which shapes it takes
    try:
        scheme.approximate(np.zeros((1, 1), np.float32))
    except ValueError as error:
        raise ValueError(f"scheme {str(scheme)!r}: {error}") from error


def _paths(inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(inputs)] if isinstance(inputs, str | Path) else [Path(p) for p in inputs]


def gather(inputs: Inputs, missing_scale: float | None = None) -> Source:
    """List the tensors of all inputs; raises as `run` does."""
    if isinstance(inputs, Checkpoint):
        return checkpoint_source(inputs)
    if isinstance(inputs, Mapping):
        source = Source()
        for name, array in inputs.items():
            source.take(array_tensor(str(name), array))
        return source
    sources = [(path, open_source(path, missing_scale=missing_scale)) for path in _paths(inputs)]
    merged = Source([t for _, s in sources for t in s.tensors], [k for _, s in sources for k in s.skipped])
    names = [t.name for t in merged.tensors]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise CheckpointError(f"inputs: {twice!r} is in more than one of them; study them one at a time")
    return merged


class NotFinite(Exception):
    """Values that no scheme can take."""


def study_one(study: StudyData, tensor: Tensor, advance: Advance, slab_elements: int, kind: str = "") -> None:
    """Study one tensor; it enters the study when all schemes are done."""
    sums = np.stack([empty_row() for _ in study.schemes])
    histograms = np.zeros_like(study.histograms)
    floored = [0] * len(study.schemes)
    shape = (tensor.rows, tensor.cols)
    with tensor.open() as rows:
        try:
            for unit, members in batches(study.schemes):
                whole = any(study.schemes[i].needs_whole_tensor for i in members)
                slabs = [Slab(0, shape[0], 0, shape[1])] if whole else plan(*shape, unit, slab_elements)
                amax = Amax.needed(*shape, slabs, [study.schemes[i] for i in members])
                for slab in slabs if amax.found else ():
                    amax.add(slab, finite(_read(rows, slab)))
                for slab in slabs:
                    x = finite(_read(rows, slab))
                    for i in members:
                        scheme = study.schemes[i]
                        y = scheme.approximate(x, amax.of(slab, scheme.group), amax.tensor())
                        row, histogram = sums_of(x, y.values, y.saturated, y.bits or 0)
                        add_into(sums[i], row)
                        floored[i] += y.floored
                        histograms[i] += histogram
                        advance(tensor.name, slab.size / len(study.schemes))
        except NotFinite:
            slabs = plan(*shape, (1, 1), slab_elements)
            reason = count_bad(_read(rows, slab) for slab in slabs)
            study.skipped.append(Skipped(tensor.name, reason, tensor.size, "not finite"))
            return
    for scheme, total in zip(study.schemes, sums, strict=True):
        bits = scheme.bits(*shape)
        if bits is not None:
            total[FIELDS.index("bits")] = bits
    for scheme, elements in zip(study.schemes, floored, strict=True):
        if elements:
            counts = study.settings.setdefault("floored", {}).setdefault(str(scheme), [0, 0])
            counts[0], counts[1] = counts[0] + 1, counts[1] + elements
    study.histograms += histograms
    study.tensors.append(TensorResult(tensor.name, tensor.shape, tensor.dtype, tensor.origin, sums, kind))


def _read(rows: Rows, slab: Slab) -> npt.NDArray[np.floating]:
    return rows(*slab)


_LARGEST = float(np.finfo(np.float32).max)


def finite(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return values as they are; raise `NotFinite` where one is not finite, or beyond the largest float32."""
    good = np.isfinite(x).all() if x.dtype == np.float32 else (np.abs(x) <= _LARGEST).all()
    if not good:
        raise NotFinite
    return x


def count_bad(slabs: Iterable[npt.NDArray[np.floating]]) -> str:
    """Say how many values `finite` refuses, and why; empty if none."""
    nan = inf = large = 0
    for x in slabs:
        nan += int(np.isnan(x).sum())
        inf += int(np.isinf(x).sum())
        large += int((np.isfinite(x) & (np.abs(x) > _LARGEST)).sum())
    counts = ((nan, "NaN"), (inf, "Inf"), (large, "beyond the largest float32"))
    found = ", ".join(f"{n} {what}" for n, what in counts if n)
    return f"not finite: {found}" if found else ""
