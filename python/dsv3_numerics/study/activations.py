"""Activations: what schemes do to the inputs of a model's linear layers.

Lives here: `run_activations`, and the table of which inputs there are. A forward in the model's own dtype
announces each operation; its input is studied there and then, and let go: one input is held at a time,
whatever the model's size. The schemes, the sums and the result are those of a study of weights.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._progress import Progress
from ..checkpoint import Skipped, array_tensor
from ..checkpoint.selection import selected
from ..report.running import recorded
from ..schemes import Scheme
from ..tasks.journal import Journal
from ..tasks.task import Task
from .result import StudyData
from .saved import Study
from .slabs import SLAB_ELEMENTS
from .state import assemble, facts_of
from .sweep import DEFAULT_SCHEMES, choose, study_one

if TYPE_CHECKING:
    from ..model import Config, Model
    from ..model.records import OpRecord

# An operation's name, and the kind of its input. Inputs that several operations share stand under one of
# them: q_a_proj's is kv_a_proj_with_mqa's too, gate_proj's is up_proj's, and dispatch's is the router's and
# that of all experts' gate_proj and up_proj.
_KINDS = (
    (r"layer\d+\.(q_a_proj|q_proj)", "attention input"),
    (r"layer\d+\.q_b_proj", "query latent"),
    (r"layer\d+\.kv_b_proj", "key-value latent"),
    (r"layer\d+\.o_proj", "attention output"),
    (r"layer\d+\.dispatch", "MoE input"),
    (r"layer\d+\.gate_proj", "MLP input"),
    (r"layer\d+\.(.*\.)?down_proj", "SwiGLU output"),
    (r"lm_head", "head input"),
)
KINDS = tuple(kind for _, kind in _KINDS)
"""Kinds of input, in the order of a layer."""


def kind_of(operation: str) -> str | None:
    """Return the kind of an operation's input; None where another's input is the same, or it has none.

    Examples
    --------
    >>> kind_of("layer3.q_a_proj"), kind_of("layer3.experts.17.down_proj")
    ('attention input', 'SwiGLU output')
    >>> kind_of("layer3.kv_a_proj_with_mqa"), kind_of("layer3.experts.17.gate_proj")
    (None, None)
    """
    return next((kind for name, kind in _KINDS if re.fullmatch(name, operation)), None)


def operations(config: Config) -> list[str]:
    """Return the operations whose inputs can be studied; experts that no token goes to will not come."""
    found = []
    for layer in range(config.num_hidden_layers):
        names = ["q_proj"] if config.q_lora_rank is None else ["q_a_proj", "q_b_proj"]
        names += ["kv_b_proj", "o_proj"]
        if config.is_moe(layer):
            names += ["shared_experts.down_proj"] * bool(config.n_shared_experts) + ["dispatch"]
            names += [f"experts.{i}.down_proj" for i in range(config.n_routed_experts)]
        else:
            names += ["gate_proj", "down_proj"]
        found += [f"layer{layer}.{name}" for name in names]
    return [*found, "lm_head"]


def run_activations(
    model: Model,
    ids: npt.ArrayLike,
    schemes: Iterable[str | Scheme] = DEFAULT_SCHEMES,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
    slab_elements: int = SLAB_ELEMENTS,
) -> Study:
    """Study the error of schemes on the inputs of a model's linear layers.

    Parameters
    ----------
    model : Model
        Its forward runs once, in its own dtype, with naive attention, so that there are keys and values to be
        made of the latents.
    ids : array_like of int, shape (batch, tokens) or (tokens,)
        Tokens that the model was made for: activations of random ones may be other than what is used.
    schemes : iterable of str or Scheme
        See `Scheme.parse`.
    include, exclude : sequence of str
        Shell patterns of operations, as ``layer3.*`` or ``*.o_proj``.
    threads, slab_elements
        As for `run`.
    progress : callable, optional
        Called as ``progress(input, done, total)``, in layers of the forward.

    Returns
    -------
    Study
        Its tensors are called after operations, as ``layer3.o_proj input``, and each has a `kind`.

    Raises
    ------
    ValueError, TypeError
        A scheme is not understood, no operation is selected, or the model refuses the ids.

    Examples
    --------
    >>> from dsv3_numerics import study
    >>> from dsv3_numerics.model import Config, Model, random_weights
    >>> config = Config.preset("tiny")
    >>> model = Model(config, random_weights(config))
    >>> found = study.run_activations(model, [3, 1, 4, 1, 5], ["e4m3:1x128:f32", "mxfp4"])
    >>> found.tensors[0].name, found.tensors[0].kind, found.tensors[0].shape
    ('layer0.q_a_proj input', 'attention input', (1, 5, 128))
    >>> found.totals("SwiGLU output")[0].sqnr_db > found.totals("SwiGLU output")[1].sqnr_db
    True
    """
    study = prepare_activations(model, ids, schemes, include=include, exclude=exclude)
    execute_activations(study, model, ids, threads=threads, progress=progress, slab_elements=slab_elements)
    return study


def prepare_activations(
    model: Model,
    ids: npt.ArrayLike,
    schemes: Iterable[str | Scheme],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Study:
    """Return an empty study for `execute_activations`; raises as `run_activations` does."""
    chosen = choose(schemes)
    tokens, _ = model._ids(ids)
    if not tokens.size:
        raise ValueError("ids: found none, expected at least one token")
    names = operations(model.config)
    if not any(selected(name, include, exclude) for name in names):
        raise ValueError(f"no operation is selected; there are {len(names)} ({', '.join(names[:4])}, ...)")
    settings = {
        "schemes": [str(s) for s in chosen],
        "include": list(include),
        "exclude": list(exclude),
        "tokens": tokens.size,
        "ids_sha256": hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:32],
    }
    return Study(chosen, histograms=np.zeros((len(chosen), 256, 3)), settings=settings)


def execute_activations(
    study: Study,
    model: Model,
    ids: npt.ArrayLike,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    slab_elements: int = SLAB_ELEMENTS,
    journal: Journal | None = None,
) -> None:
    """Run the forward, and study inputs as they come; if interrupted, the study holds those finished.

    Inputs that the journal holds are not studied again.
    """
    known = {} if journal is None else journal.done
    tasks: list[Task] = []
    include, exclude = study.settings["include"], study.settings["exclude"]
    last, layers = "", 0.0

    def hook(record: OpRecord) -> None:
        nonlocal last
        operation = record.operation.name
        kind = kind_of(operation)
        if kind is None or not selected(operation, include, exclude):
            return
        last = f"{operation} input"
        if progress is not None:
            progress(last, layers, len(model.layers))
        task = Task(len(tasks), last, 1.0)
        tasks.append(task)
        if last in known:
            return
        start = time.perf_counter()
        tensor, piece = array_tensor(last, record.inputs[0]), StudyData(study.schemes)
        piece.histograms = np.zeros_like(study.histograms)
        if isinstance(tensor, Skipped):
            piece.skipped.append(tensor)
        else:
            study_one(piece, tensor, lambda name, elements: None, slab_elements, kind)
        facts = facts_of(piece, time.perf_counter() - start)
        if journal is None:
            known[last] = facts
        else:
            journal.note(task, facts)

    def step(name: str, done: float, total: float) -> None:
        nonlocal layers
        layers = done
        if progress is not None:
            progress(last, done, total)

    study.settings["slab_elements"] = slab_elements
    study.seconds += sum(facts["seconds"] for facts in known.values())
    try:
        with recorded(study, threads):
            # In one chunk, so that each operation comes once.
            model.forward(ids, absorbed=False, chunk=max(np.size(ids), 1), hook=hook, progress=step)
    finally:
        assemble(study, tasks, known)
