"""Random checkpoints in the release's format, of any size: made on the spot, streamed to disk.

Lives here: `random_checkpoint`: which files, what is in them, and that they are whole or not there. Numbers
come from `block_pool` and are like those of `random`; which tensors there are is `weights`'.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from .._arrays import Array, positive, seed_key, whole
from .._atomic import PartialFile, ensure_space, is_temporary, replacing
from .._progress import Meter, Progress
from ..checkpoint.conversion.families import in_recipe
from ..checkpoint.conversion.plan import to_json
from ..checkpoint.declared import CONFIG_NAME, fp8_section
from ..checkpoint.index import INDEX_NAME
from ..checkpoint.scan import SCALE_SUFFIX
from ..checkpoint.selection import selected
from ..checkpoint.write import Entry, Layout, layout
from ..tasks.journal import journals, open_journal, read_head, remove_journals, verb_of
from ..tasks.plan import Split
from ..tasks.task import Finished, Moved, Task
from .block_pool import SIDE, BlockPool, Kind
from .config import Config
from .random import deviation, draw
from .weights import expected_shapes

if sys.platform != "win32":
    import fcntl


VERB = "make"
_SHARD = 4 << 30
_SCALES = ("float32", "ue8m0")


class RandomCheckpoint(NamedTuple):
    """Outcome of `random_checkpoint`.

    Attributes
    ----------
    path : Path
        The folder.
    files, tensors : int
        Of the checkpoint; scales count as tensors.
    nbytes : int
        Of all its tensors.
    written : int
        Bytes of files that were not there yet; 0 if an earlier run had made everything.
    seconds : float
    part : str
        The part that this run did, as "2/8"; empty: all.
    """

    path: Path
    files: int
    tensors: int
    nbytes: int
    written: int
    seconds: float
    part: str = ""


def random_checkpoint(
    folder: str | os.PathLike[str],
    config: Config,
    *,
    layers: Iterable[int] | None = None,
    include: Sequence[str] = (),
    fp8: bool = True,
    scale: Literal["float32", "ue8m0"] = "float32",
    seed: int = 0,
    shard_bytes: int = _SHARD,
    part: str | None = None,
    dask: str | None = None,
    progress: Progress | None = None,
) -> RandomCheckpoint:
    """Make a checkpoint of random weights, as a release of this config would have it.

    ``config.json``, an index, and shards: E4M3 weights with a scale for each block of 128x128 in
    ``weight_scale_inv``; embedding, head, norms and gates in BF16; ``e_score_correction_bias`` in float32.
    Numbers are normal, with a standard deviation that keeps the size of activations (one over the root of the
    inputs), and every block's largest code is what the quantizer makes it: 448 with float32 scales.

    Parameters
    ----------
    folder : path
        Empty or not there yet, or with what an earlier run of the same settings has left: files that are
        whole are kept, the others are made.
    config : Config
    layers : iterable of int, optional
        Only these layers; those from ``num_hidden_layers`` on are of multi-token prediction. By default
        all tensors, embedding and head too.
    include : sequence of str
        Globs: only tensors with a name that matches one, as ``model.layers.3.mlp.*``.
    fp8 : bool
        False: BF16 in place of FP8 weights, and no scales.
    scale : {"float32", "ue8m0"}
        ue8m0: powers of two, stored as float32, as in DeepSeek-V3.1.
    seed : int
        The same seed gives a tensor the same values whatever else is made.
    shard_bytes : int
        A file holds about so many bytes, and at least one tensor.
    part : str, optional
        Make only the I-th of N parts of the files, as "2/8", beside other processes or machines; `merge` (the
        verb) writes what comes last.
    dask : str, optional
        Let the workers of a Dask cluster make them: a scheduler's address or file, or "local:N".
    progress : callable, optional
        Called with a tensor's name, the bytes written so far, and those of all there is to write.

    Returns
    -------
    RandomCheckpoint

    Raises
    ------
    FileExistsError
        The folder holds something else.
    ValueError, TypeError
        Layers that the config does not have, globs that match nothing, an unknown `scale`, a negative seed.
    OSError
        The folder cannot be written, another process is at work in it, or the disk has too little space,
        which is checked at the beginning.

    Notes
    -----
    Memory is some tens of MB whatever the size. Each file is written under a temporary name, synced and
    renamed. Blocks of a weight are dealt from 256 that are drawn for its number of columns, each with its
    rows rotated at random; blocks at ragged edges are drawn afresh. So weights have blocks in common, but no
    rows.

    Examples
    --------
    >>> from dsv3_numerics import checkpoint
    >>> from dsv3_numerics.model import Config, random_checkpoint
    >>> made = random_checkpoint("tiny-fp8", Config.preset("tiny"))
    >>> made.files, made.tensors
    (1, 525)
    >>> with checkpoint.open("tiny-fp8") as ckpt:
    ...     ckpt.quantized("model.layers.0.self_attn.o_proj.weight")
    Quantized((128, 112) float8_e4m3fn, 128x128, float32 scales, 8.002 bits per element)
    """
    if scale not in _SCALES:
        raise ValueError(f"scale: found {scale!r}, expected one of {', '.join(_SCALES)}")
    arguments = RandomWeights(
        str(Path(folder).absolute()),
        json.dumps(config.to_dict(), sort_keys=True),
        None if layers is None else tuple(whole(layer, "layers") for layer in layers),
        tuple(include),
        scale if fp8 else "bf16",
        seed_key(seed),
        positive(shard_bytes, "shard_bytes"),
    )
    return _make(arguments, Split.of(part, dask), progress, Path(folder))


def merge_random(folder: Path, progress: Progress | None = None) -> RandomCheckpoint:
    """End a checkpoint whose parts are all made: write index and configuration.

    Raises
    ------
    ValueError
        Parts are missing.
    OSError
        Parts are at work.
    """
    _, given = read_head(journals(folder, VERB)[0])
    lists = {name: None if given[name] is None else tuple(given[name]) for name in ("layers", "include")}
    arguments = RandomWeights(**{**given, **lists, "folder": str(folder.absolute())})
    return _make(arguments, Split(merge=True), progress, folder)


def _make(
    arguments: RandomWeights, split: Split, progress: Progress | None, target: Path
) -> RandomCheckpoint:
    start = time.perf_counter()
    maker = ShardMaker(arguments)
    shards, texts = maker.shards, maker.texts()
    mine = split.tasks(maker.tasks)
    if not target.exists():
        ensure_space(target, sum(shards[task.name].size for task in mine))
    target.mkdir(parents=True, exist_ok=True)
    with _alone(target, shared=split.part is not None):
        missing = _missing(target, shards, texts, alone=split.part is None)
        todo = [task for task in mine if task.name in missing]
        written = sum(shards[task.name].size for task in todo)
        ensure_space(target, written)
        meter = Meter(progress, written)
        opener = None if split.part is not None else arguments

        def perform(finished: Finished) -> None:
            split.within(opener, target).perform(maker, todo, meter.advance, finished)

        if split.part is not None:
            # which says to `merge` what this is; the files themselves say what is done
            head = {name: value for name, value in asdict(arguments).items() if name != "folder"}
            with open_journal(
                target, VERB, head, resume=True, part=split.part, arguments=asdict(arguments)
            ) as journal:
                perform(journal.note)
        else:
            perform(lambda task, facts: None)
            for file, text in texts.items():  # what says that all is there comes last
                if file in missing:
                    with replacing(target / file, len(text)) as stream:
                        stream.write(0, text)
            remove_journals(target, VERB)
    count = sum(len(shard.begins) for shard in shards.values())
    size = sum(shard.size - len(shard.header) for shard in shards.values())
    seconds = time.perf_counter() - start
    told = "" if split.part is None else str(split.part)
    return RandomCheckpoint(target, len(shards), count, size, written, seconds, told)


@dataclass(frozen=True)
class RandomWeights:
    """Arguments of a random checkpoint, from which any process makes its files; see `random_checkpoint`."""

    folder: str
    config: str
    layers: tuple[int, ...] | None
    include: tuple[str, ...]
    kind: Kind
    seed: int
    shard_bytes: int

    @contextmanager
    def open(self) -> Iterator[ShardMaker]:
        """Open what makes the files."""
        yield ShardMaker(self)


class ShardMaker:
    """Maker of a random checkpoint's files; its tasks are the files."""

    def __init__(self, arguments: RandomWeights) -> None:
        self._folder, self._kind, self._seed = Path(arguments.folder), arguments.kind, arguments.seed
        self._config = Config.from_json(json.loads(arguments.config))
        self._tensors = _chosen(self._config, arguments.layers, arguments.include)
        about = {"format": "pt", "random.kind": self._kind, "random.seed": str(self._seed)}
        self.shards = _shards(self._tensors, self._kind != "bf16", arguments.shard_bytes, about)
        self.tasks = [Task(i, file, shard.size) for i, (file, shard) in enumerate(self.shards.items())]

    def texts(self) -> dict[str, bytes]:
        """Return what says that all is there: configuration and index."""
        return {
            CONFIG_NAME: to_json(_config(self._config, self._kind)),
            INDEX_NAME: to_json(_index(self.shards)),
        }

    def run(self, tasks: Sequence[Task], moved: Moved, finished: Finished) -> None:
        """Make some of the files."""
        numbers = _Numbers(self._kind, self._seed)
        for task in tasks:
            shard = self.shards[task.name]
            with replacing(self._folder / task.name, shard.size) as stream:
                stream.write(0, shard.header)
                more = len(shard.header)
                for name in (name for name in self._tensors if name in shard.begins):
                    for count in _write(stream, shard, name, numbers.bands(name, self._tensors[name])):
                        moved(name, count + more)
                        more = 0
            finished(task, {})


# --- What there is --------------------------------------------------------------------------------------


def _chosen(
    config: Config, layers: Iterable[int] | None, include: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the tensors to be made and their shapes."""
    tensors = expected_shapes(config)
    if layers is not None:
        wanted = sorted({whole(layer, "layers") for layer in layers})
        last = config.num_hidden_layers + config.num_nextn_predict_layers - 1
        if not wanted or wanted[0] < 0 or wanted[-1] > last:
            raise ValueError(f"layers: found {wanted}, expected some of 0 to {last}")
        prefixes = tuple(f"model.layers.{layer}." for layer in wanted)
        tensors = {name: shape for name, shape in tensors.items() if name.startswith(prefixes)}
    for glob in include:
        if not any(selected(name, [glob], ()) for name in tensors):
            some = ", ".join(list(tensors)[:3])
            raise ValueError(f"include: found {glob!r}, which matches no tensor ({some}, ...)")
    return {name: shape for name, shape in tensors.items() if selected(name, include, ())}


def _entries(name: str, shape: tuple[int, ...], fp8: bool) -> list[Entry]:
    """Return a tensor as a file holds it, and its scales."""
    if fp8 and in_recipe(name):
        grid = (-(-shape[0] // SIDE), -(-shape[1] // SIDE))
        return [Entry(name, "F8_E4M3", shape), Entry(name + SCALE_SUFFIX, "F32", grid)]
    return [Entry(name, "F32" if name.endswith("bias") else "BF16", shape)]


def _shards(
    tensors: Mapping[str, tuple[int, ...]], fp8: bool, limit: int, about: Mapping[str, str]
) -> dict[str, Layout]:
    """Return the files and their headers, which say in `about` how the numbers were drawn."""
    parts: list[list[Entry]] = [[]]
    size = 0
    for name, shape in tensors.items():
        entries = _entries(name, shape, fp8)
        more = sum(entry.nbytes for entry in entries)
        if parts[-1] and size + more > limit:
            parts.append([])
            size = 0
        parts[-1] += entries
        size += more
    return {
        f"model-{i:05d}-of-{len(parts):06d}.safetensors": layout(part, about)
        for i, part in enumerate(parts, start=1)
    }


def _index(shards: Mapping[str, Layout]) -> dict[str, Any]:
    places = {name: file for file, shard in shards.items() for name in shard.begins}
    size = sum(shard.size - len(shard.header) for shard in shards.values())
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}


def _config(config: Config, kind: Kind) -> dict[str, Any]:
    """``config.json`` as a release has it."""
    found: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **config.to_dict(),
        "num_key_value_heads": config.num_attention_heads,
        "hidden_act": "silu",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
    }
    if kind != "bf16":
        found["quantization_config"] = fp8_section(SIDE, ue8m0=kind == "ue8m0")
    return found


# --- The folder -----------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path, *, shared: bool) -> Iterator[None]:
    """Keep other processes of this kind out of a folder, where the system can; parts share it."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder}: another process is making a checkpoint in it") from None
        yield
    finally:
        os.close(handle)


def _missing(
    folder: Path, shards: Mapping[str, Layout], texts: Mapping[str, bytes], *, alone: bool
) -> set[str]:
    """Return the files that are not there yet; what a killed run left half-written is removed.

    Raises
    ------
    FileExistsError
        A file that is none of ours, or one of ours that was made with other settings.
    """
    begins = {file: (shard.header, shard.size) for file, shard in shards.items()}
    begins |= {file: (text, len(text)) for file, text in texts.items()}
    for path in folder.iterdir():
        if is_temporary(path.name):
            if alone:
                path.unlink()
        elif path.name not in begins and verb_of(path.name) != VERB:
            raise FileExistsError(f"{folder}: found {path.name}, expected an empty folder")
        elif path.name in begins and not _is(path, *begins[path.name]):
            raise FileExistsError(f"{path}: made with other settings, or not by us; expected an empty folder")
    return {file for file in begins if not (folder / file).exists()}


def _is(path: Path, beginning: bytes, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with open(path, "rb") as file:
        return file.read(len(beginning)) == beginning


# --- The numbers ----------------------------------------------------------------------------------------


class _Numbers:
    """Every tensor's values, from its first row to its last; the same whatever was asked for before."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self._kind, self._seed = kind, seed
        self._pools: dict[tuple[float, Kind], BlockPool] = {}

    def bands(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        """Return a few rows at a time: what is stored, and the scales of their blocks, if there are any."""
        if len(shape) == 1:
            dtype = np.float32 if name.endswith("bias") else ml_dtypes.bfloat16
            yield draw(name, shape, self._seed).astype(dtype), np.empty(0, np.float32)
            return
        deck, rng = self._pool(name, shape), np.random.default_rng([self._seed, *name.encode()])
        for row in range(0, shape[0], SIDE):
            yield deck.band(min(SIDE, shape[0] - row), shape[1], rng)

    def _pool(self, name: str, shape: tuple[int, ...]) -> BlockPool:
        std = deviation(name, shape)
        key = std, self._kind if in_recipe(name) else "bf16"
        if key not in self._pools:
            self._pools[key] = BlockPool(*key, [self._seed, round(1e9 * std)])
        return self._pools[key]


def _write(
    file: PartialFile, shard: Layout, name: str, bands: Iterable[tuple[Array, Array]]
) -> Iterator[int]:
    """Write a tensor and its scales; yields the bytes of each band."""
    at, scales_at = shard.begins[name], shard.begins.get(name + SCALE_SUFFIX, 0)
    for values, scales in bands:
        file.write(at, values.reshape(-1).view(np.uint8).data)
        if scales.size:
            file.write(scales_at, scales.view(np.uint8).data)
        at, scales_at = at + values.nbytes, scales_at + scales.nbytes
        yield values.nbytes + scales.nbytes
