"""An open checkpoint: its tensors as a mapping of names to arrays that lie in the files themselves.

Lives here: `open` and `Checkpoint`. Headers are read and checked when it is opened; a file is mapped when the
first of its tensors is asked for. A file that has changed since is refused: what its header said may no
longer be so. Weights are joined with their scales in `dequantize`; contradictions are listed by `inspect`.
"""

from __future__ import annotations

import builtins
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import DTypeLike

from .._arrays import Array
from ..quantized import Quantized
from . import dequantize as values
from .declared import CONFIG_NAME, HF_QUANT_NAME, Declaration, read_declaration
from .index import CheckpointFiles, locate, read_json, shown
from .prefetch import LEAST, ask
from .readers import CheckpointError, fill, readable
from .resolve import COMFY_METADATA, resolve
from .scan import FileFingerprint, Scan, TensorInfo, scan
from .stored import Contents, StoredWeight

_BLOCK = (128, 128)


def open(path: str | os.PathLike[str], *, missing_scale: float | None = None) -> Checkpoint:
    """Open a checkpoint for reading.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file; a folder with ``model.safetensors.index.json``, or with ``*.safetensors``;
        a snapshot of a model cache, or its folder ``models--organization--name``. Links are followed, but an
        index may only name files below its folder.
    missing_scale : float, optional
        1: FP8 codes beside which there is no scale are the numbers themselves. By default they are refused
        when they are asked for as numbers: a lost scale looks the same.

    Returns
    -------
    Checkpoint
        To be used as a context manager, or closed.

    Raises
    ------
    CheckpointError
        A file is missing, truncated or lies about its tensors; an index or a folder contradicts the files.

    Examples
    --------
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> save_file({"norm.weight": np.ones(3, np.float32)}, "model.safetensors")
    >>> with open("model.safetensors") as ckpt:
    ...     list(ckpt), ckpt["norm.weight"]
    (['norm.weight'], array([1., 1., 1.], dtype=float32))
    """
    if missing_scale is not None and missing_scale != 1:
        raise ValueError(f"missing_scale: found {missing_scale!r}, expected 1 or None")
    place = locate(Path(path))
    found = scan(place)
    found.raise_first()
    return Checkpoint(Path(path), place, found, missing_scale)


class Checkpoint(Mapping[str, Array]):
    """The tensors of a checkpoint, by name, in the order in which they are stored; see `open`.

    An array is read-only and lies in the mapped file: nothing is copied, and it stays valid after `close`. If
    another program shortens the file while an array of it is in use, the operating system ends the process
    that reads beyond the new end; `read` and `dequantized` use plain reads, and give an error instead.

    Attributes
    ----------
    path : Path
        As given to `open`.
    folder : Path
        Where the files are.
    files : tuple of str
        Relative to the folder, in order of their names.
    missing_scale : float or None
        As given to `open`.
    """

    def __init__(
        self, path: Path, place: CheckpointFiles, found: Scan, missing_scale: float | None = None
    ) -> None:
        self.missing_scale = missing_scale
        self.path = path
        self.folder = place.folder
        self._place = place
        self.files = tuple(found.fingerprints)
        self._found = found
        self._maps: dict[str, Array] = {}
        self._lock = threading.Lock()
        self._closed = False

    # --- The mapping ----------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Array:
        """Return the tensor: shape and dtype as stored, bytes where elements are packed (F4, F6).

        Raises
        ------
        KeyError
            No such tensor.
        CheckpointError
            Its file has changed or gone since the checkpoint was opened, or the checkpoint is closed.
        """
        info = self.info(name)
        data = self._mapped(info.file)[info.begin : info.end]
        return data.view(info.row.stored).reshape(info.row.stored_shape(info.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._found.tensors)

    def __len__(self) -> int:
        return len(self._found.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._found.tensors

    # Arrays have no single truth to compare: a checkpoint is equal to itself only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        size = sum(fingerprint.size for fingerprint in self._found.fingerprints.values())
        return f"Checkpoint({str(self.path)!r}, {len(self)} tensors, {len(self.files)} files, {size} bytes)"

    # --- What is known without reading values ---------------------------------------------------------------

    def info(self, name: str) -> TensorInfo:
        """Where a tensor is, and what; KeyError if there is none of that name."""
        info = self._found.tensors.get(name)
        if info is None:
            raise KeyError(f"{self.path}: no tensor {shown(name)}")
        return info

    def infos(self) -> Iterator[TensorInfo]:
        """All tensors, in the order of the files and of the data in them."""
        return iter(self._found.tensors.values())

    @property
    def index_name(self) -> str | None:
        """The name of the index; None without one."""
        return None if self._place.index is None else self._place.index.path.name

    @property
    def is_single(self) -> bool:
        """True where one file was given, False for a folder or an index."""
        return self._place.index is None and not self.path.is_dir()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about files in the folder that are no part of this checkpoint."""
        names = self._place.left_out
        return (f"{', '.join(names)} is another checkpoint in this folder, and left out",) if names else ()

    @property
    def unlisted(self) -> tuple[TensorInfo, ...]:
        """Tensors in the files that the index does not list there: no part of the checkpoint."""
        return self._found.tensors.unlisted

    def metadata(self, file: str | None = None) -> dict[str, str]:
        """Return the ``__metadata__`` of a file; of the first one by default."""
        name = self.files[0] if file is None else file
        if name not in self._found.fingerprints:
            raise KeyError(f"{self.path}: no file {shown(name)}")
        return self._found.tensors.metadata(name)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Content of ``config.json`` beside the files; None without one."""
        path = self.folder / CONFIG_NAME
        return read_json(path) if os.path.lexists(path) else None

    @property
    def quantization(self) -> dict[str, Any]:
        """``quantization_config`` of the configuration; empty without one."""
        section = (self.config or {}).get("quantization_config")
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise self._config_error("quantization_config", section, "an object")
        return section

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that share a scale: the configuration's ``weight_block_size``, else 128x128."""
        size = self.quantization.get("weight_block_size")
        if size is None:
            return _BLOCK
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise self._config_error("weight_block_size", size, "two positive integers")
        return size[0], size[1]

    @property
    def scale_fmt(self) -> str | None:
        """``"ue8m0"`` where the configuration says that scales are powers of two, else None."""
        kind = self.quantization.get("scale_fmt")
        if kind not in (None, "ue8m0", "float"):
            raise self._config_error("scale_fmt", kind, "'ue8m0'")
        return "ue8m0" if kind == "ue8m0" else None

    def _config_error(self, key: str, found: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder / CONFIG_NAME}: {key}: found {shown(found)}, expected {expected}"
        )

    @cached_property
    def declaration(self) -> Declaration:
        """Statements of the configuration on quantization, wherever they stand."""
        path = self.folder / HF_QUANT_NAME
        hf_quant = read_json(path) if os.path.lexists(path) else None
        return read_declaration(self.config, hf_quant, str(self.folder))

    @cached_property
    def contents(self) -> Contents:
        """Meaning of the tensors: low-precision weights by their dialects, and what is not understood."""
        try:
            declaration = self.declaration
        except CheckpointError as error:
            declaration = Declaration(problems=(str(error),))

        def read(info: TensorInfo) -> bytes:
            return bytes(self._mapped(info.file)[info.begin : info.end])

        return resolve(
            self._found.tensors.quick(),
            declaration,
            read,
            folder=str(self.folder),
            comfy=self._found.tensors.metadata_values(COMFY_METADATA),
            missing_scale=self.missing_scale,
        )

    @property
    def weights(self) -> Mapping[str, StoredWeight]:
        """The low-precision weights, by their names as plain numbers."""
        return self.contents.weights

    # --- Values ---------------------------------------------------------------------------------------------

    def read(self, name: str, out: Array | None = None) -> Array:
        """Return the same array as ``ckpt[name]``, read into memory of its own.

        Parameters
        ----------
        name : str
        out : ndarray, optional
            C-contiguous and writeable, of exactly the array's shape and dtype.

        Raises
        ------
        KeyError, CheckpointError
            As for ``ckpt[name]``.
        TypeError, ValueError
            An `out` of another dtype or shape, read-only or strided.
        """
        return values.read(self, name, out)

    def quantized(self, name: str) -> Quantized:
        """Return a weight and its scales, perhaps of another file: codes mapped or unpacked, scales read.

        Parameters
        ----------
        name : str
            The weight's name as plain numbers: ``X.weight`` also where codes are in ``X.weight_packed``.

        Raises
        ------
        KeyError
            No such weight.
        CheckpointError
            The weight is plain; no dialect explains its tensors, or two do; scales that are not finite or
            negative.

        Notes
        -----
        Blocks are those of the configuration or the dialect, never derived from the shapes, which do not
        tell them where edges are ragged. Codes keep the orientation in which they are stored (gpt-oss:
        that of `dequantized` is the transpose). Scales that are divided by a second scale
        (compressed-tensors NVFP4) come as float32 quotients.
        """
        return values.quantized(self, name)

    def dequantized(self, name: str, dtype: DTypeLike = np.float32, out: Array | None = None) -> Array:
        """Return a tensor as numbers, read piece by piece with plain reads.

        Parameters
        ----------
        name : str
        dtype : {float32, float64, float16, bfloat16}
            Weights in low precision give ``float32(code) * scale`` (two-level scales are multiplied first, in
            float32), rounded once more, to nearest even, where `dtype` is narrower. Other tensors are cast,
            rounded once; what is too large becomes infinite.
        out : ndarray, optional
            Numbers are written here: the tensor's shape, `dtype`, writeable.

        Returns
        -------
        ndarray of `dtype`
            `out` itself if given.

        Raises
        ------
        KeyError, CheckpointError
            As for `quantized`. Codes that no dialect explains are an error, and so are complex tensors.
        TypeError, ValueError
            Another `dtype`; an `out` of another dtype or shape, or read-only.
        """
        return values.dequantized(self, name, dtype, out)

    @property
    def has_large(self) -> bool:
        """True: there are tensors that `prefetch` asks for."""
        return any(info.nbytes >= LEAST for info in self.infos())

    def prefetch(self, names: Iterable[str]) -> None:
        """Ask the system to bring tensors into memory that will be read soon, whole.

        A hint, where the system takes it: it returns at once, and changes nothing but the time of the first
        read from a disk. Tensors of less than 1 MiB, and those in memory already, are not asked for.

        Raises
        ------
        KeyError
            No such tensor.
        """
        ranges: dict[str, list[tuple[int, int]]] = {}
        for name in names:
            weight = self.weights.get(name)
            for info in (self.info(name),) if weight is None else weight.parts:
                if info.nbytes >= LEAST:
                    ranges.setdefault(info.file, []).append((info.begin, info.end))
        for file, found in ranges.items():
            ask(self.folder / file, found)

    @contextmanager
    def reader(self, file: str) -> Iterator[Callable[[int, Array], None]]:
        """Open one of the files for plain reads: call it with an offset and the contiguous array to fill.

        Raises
        ------
        CheckpointError
            The file has changed since the checkpoint was opened, or ends before the array is full.
        """
        path = self.folder / file
        with readable(path), self._same(file) as stream:

            def read(begin: int, array: Array) -> None:
                if not array.flags.c_contiguous:
                    raise ValueError("array: found a strided array, expected a C-contiguous one")
                stream.seek(begin)
                fill(stream, array.reshape(-1).view(np.uint8).data, f"{path}: ends too early")

            yield read

    # --- Files ----------------------------------------------------------------------------------------------

    def _mapped(self, file: str) -> Array:
        """Return the bytes of a file; mapped once, looked at each time."""
        path = self.folder / file
        with readable(path), self._lock:
            if file in self._maps:
                self._ensure_same(file, path.stat())
            else:
                with self._same(file) as stream:
                    pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                self._maps[file] = np.frombuffer(pages, np.uint8)
            return self._maps[file]

    @contextmanager
    def _same(self, file: str) -> Iterator[IO[bytes]]:
        """Yield the file whose header was read, opened; looked at before too, because a pipe would block."""
        path = self.folder / file
        self._ensure_same(file, path.stat())
        with builtins.open(path, "rb", buffering=0) as stream:
            self._ensure_same(file, os.fstat(stream.fileno()))
            yield stream

    def _ensure_same(self, file: str, status: os.stat_result) -> None:
        if self._closed:
            raise CheckpointError(f"{self.path}: closed")
        if FileFingerprint.of(status) != self._found.fingerprints[file]:
            raise CheckpointError(f"{self.folder / file}: changed since it was opened; open it again")

    def close(self) -> None:
        """Let go of the files. Arrays that are in use keep theirs."""
        self._closed = True
        with self._lock:
            self._maps.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
