"""Checkpoints: FP8 to BF16 and back, file to file, beside a copy of the same bytes and beside other ways.

The checkpoint is made on the spot, in a temporary folder, from DeepSeek-V3's own shapes. The yardstick `copy`
reads as many bytes as the conversion and writes as many, in large pieces, and syncs what it wrote, as the
conversion does; `cp` copies the finished result. Each figure is the median over alternating pairs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import shapes
from dsv3_numerics import checkpoint, reference
from dsv3_numerics._atomic import replacing
from dsv3_numerics.checkpoint.index import INDEX_NAME
from dsv3_numerics.checkpoint.write import Entry, layout
from harness import Call, Measured, Row, set_state
from suite import levels

try:
    import torch
except ImportError:
    torch = None

LEGEND = """\
File to file in a temporary folder, everything synced at the end. Ratio: the time of the other way over ours.
`x copy`: one thread reads as many bytes as the conversion does and writes as many; `x cp`: the system's copy
of the finished result; other names: that way of doing it, with all the threads it takes. Each is the median
over alternating pairs; the input is in the file system's cache. `x fp8` and `x unverified` are measured in
a file system of memory, where there is one: verifying reads all back, which doubles the time on a disk that
reads no faster than it writes. MiB: peak memory, which has to stay below."""

GIB = 1 << 30
SCALE_INV = "_scale_inv"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
PAIRS = 3
PIECE = 8 << 20
COPY_GATE, PEER_GATE, MEMORY_GATE = 0.8, 10.0, 1024.0


@dataclass(frozen=True)
class Size:
    """How much of the model is made: one dense layer's tensors, then experts; small ones for a check."""

    label: str
    experts: int
    divide: int
    "sides are the model's divided by this"
    shard: int
    "bytes after which the next file begins"


FULL = Size("2.0 GB", 40, 1, GIB // 2)
PEER = Size("0.4 GB", 4, 1, GIB)
QUICK = Size("quick", 2, 24, 1 << 20)


def tensors(size: Size) -> list[tuple[str, tuple[int, int], bool]]:
    """Names, shapes, and whether FP8: a layer's attention, and experts beside its shared one."""
    rows = [
        (s.name, f"model.layers.3.self_attn.{s.name}.weight")
        for s in shapes.SHAPES
        if s.name.endswith(("a_proj", "b_proj", "with_mqa", "o_proj"))
    ]
    rows += [("moe.gate", "model.layers.3.mlp.gate.weight")]
    for part in ("gate_proj", "up_proj", "down_proj"):
        rows += [
            (f"expert.{part}", f"model.layers.3.mlp.experts.{e}.{part}.weight") for e in range(size.experts)
        ]
        rows += [(f"shared.{part}", f"model.layers.3.mlp.shared_experts.{part}.weight")]
    found = []
    for shape_name, name in rows:
        s = shapes.shape(shape_name)
        found.append((name, (-(-s.rows // size.divide), -(-s.cols // size.divide)), s.fp8))
    return found


def make(folder: Path, size: Size) -> None:
    """Write an FP8 checkpoint as the release has it; the last weight of a file has its scales in the next."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    pool = rng.integers(0, 256, PIECE, np.uint8)
    pool[(pool & 0x7F) == 0x7F] = 0  # no NaN
    entries: list[list[Entry]] = [[]]
    room = size.shard
    for name, shape, fp8 in tensors(size):
        for entry in weight(name, shape, fp8):
            if room < 0:
                entries.append([])
                room = size.shard
            entries[-1].append(entry)
            room -= entry.nbytes
    weight_map = {}
    for i, group in enumerate(entries):
        file = f"model-{i + 1:05d}-of-{len(entries):05d}.safetensors"
        plan = layout(group, {"format": "pt"})
        with replacing(folder / file, plan.size) as out:
            out.write(0, plan.header)
            for entry in group:
                weight_map[entry.name] = file
                fill(out, plan.begins[entry.name], entry, pool, rng)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {"torch_dtype": "bfloat16", "quantization_config": {"weight_block_size": [128, 128]}}
    (folder / "config.json").write_text(json.dumps(config))


def weight(name: str, shape: tuple[int, int], fp8: bool) -> list[Entry]:
    """A weight, and its scales if it has any."""
    if not fp8:
        return [Entry(name, "BF16", shape)]
    grid = -(-shape[0] // 128), -(-shape[1] // 128)
    return [Entry(name, "F8_E4M3", shape), Entry(name + SCALE_INV, "F32", grid)]


def fill(out: Any, begin: int, entry: Entry, pool: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Scales of the size that they have in the release; codes and other numbers from the pool."""
    if entry.dtype == "F32":
        data = rng.uniform(1e-4, 4e-4, entry.shape).astype(np.float32)
        out.write(begin, data.reshape(-1).view(np.uint8).data)
        return
    for start in range(0, entry.nbytes, PIECE):
        out.write(begin + start, pool[: min(PIECE, entry.nbytes - start)].data)


@contextmanager
def made(size: Size) -> Iterator[Path]:
    """A folder with the checkpoint in it as ``src``."""
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as folder:
        make(Path(folder) / "src", size)
        yield Path(folder)


# --- Ways to do it ------------------------------------------------------------------------------------------


def ours(folder: Path, to: str = "bf16", source: str = "src", **options: Any) -> Call:
    """The product."""
    return lambda: checkpoint.convert(folder / source, folder / "dst", to=to, **options)  # type: ignore[arg-type]


def copy(source: Path, target: Path, ratio: float) -> None:
    """Read a folder's tensors and write `ratio` times as many bytes, synced: what a conversion moves."""
    target.mkdir()
    data = bytearray(PIECE)
    out = memoryview(bytes(int(PIECE * ratio) + 1))
    for file in sorted(source.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as r, open(target / file.name, "xb", buffering=0) as w:
            while got := r.readinto(data):
                w.write(out[: int(got * ratio)])
            os.fsync(w.fileno())


def cp(source: Path, target: Path) -> None:
    """Time the system's own copy of the finished result, synced too."""
    shutil.copytree(source, target)
    for file in target.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def by_ml_dtypes(source: Path, target: Path) -> None:
    """The loop that a NumPy user writes; `safetensors.numpy` cannot open FP8, so `checkpoint` opens it."""
    by_hand(source, target, numpy_way, ml_dtypes.bfloat16)


def by_torch(source: Path, target: Path) -> None:
    """The loop that a PyTorch user writes, without CUDA."""
    by_hand(source, target, torch_way, ml_dtypes.bfloat16)


def by_hand(source: Path, target: Path, way: Any, dtype: Any) -> None:
    """Tensor by tensor, each file built up in memory and written by `safetensors`."""
    from safetensors.numpy import save_file

    target.mkdir()
    with checkpoint.open(source) as ckpt:
        for file in ckpt.files:
            done = {}
            for info in ckpt.infos():
                if info.file != file or info.name.endswith(SCALE_INV):
                    continue
                scale = info.name + SCALE_INV
                done[info.name] = (
                    way(ckpt[info.name], ckpt[scale]).view(dtype) if scale in ckpt else ckpt[info.name]
                )
            save_file(done, target / file)


def numpy_way(codes: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[Any]:
    """Scales repeated over their blocks, a product, a cast."""
    spread = np.repeat(np.repeat(scales, 128, axis=0), 128, axis=1)[: codes.shape[0], : codes.shape[1]]
    return (codes.astype(np.float32) * spread).astype(ml_dtypes.bfloat16)


def torch_way(codes: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[Any]:
    """The same in PyTorch."""
    x = torch.from_numpy(codes.view(np.uint8).copy()).view(torch.float8_e4m3fn).float()
    s = torch.from_numpy(scales.copy())
    spread = s.repeat_interleave(128, 0).repeat_interleave(128, 1)[: x.shape[0], : x.shape[1]]
    return (x * spread).to(torch.bfloat16).view(torch.uint16).numpy()  # type: ignore[no-any-return]


# --- Measuring ----------------------------------------------------------------------------------------------


def alternate(kernel: Call, yardstick: Call, target: Path, pairs: int) -> Measured:
    """Pairs in alternating order; what each writes is removed outside the clock."""

    def timed(call: Call) -> float:
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    found = []
    for i in range(pairs):
        b = timed(yardstick) if i % 2 else 0.0
        a = timed(kernel)
        b = b or timed(yardstick)
        found.append((b / a, a))
    shutil.rmtree(target, ignore_errors=True)
    ratio, seconds = (statistics.median(column) for column in zip(*found, strict=True))
    return Measured(ratio, seconds, len(found), 0)


def peak_memory(folder: Path) -> float:
    """MiB that a process converting the checkpoint has at most, beyond those that it has before."""
    code = (
        "import sys\n"
        "from dsv3_numerics import checkpoint\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024\n"
        "before = peak()\n"
        "checkpoint.convert(sys.argv[1], sys.argv[2], to='bf16')\n"
        "print(peak() - before)\n"
    )
    shutil.rmtree(folder / "dst", ignore_errors=True)
    command = [sys.executable, "-c", code, str(folder / "src"), str(folder / "dst")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parameters(size: Size) -> int:
    """Elements."""
    return sum(rows * cols for _, (rows, cols), _ in tensors(size))


def stored(folder: Path) -> int:
    """Bytes of the tensors' files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def rows(size: Size = FULL, peer: Size = PEER, pairs: int = PAIRS) -> Iterator[Row]:
    """Measure everything."""
    level = levels()[-1]
    with made(size) as folder:
        source, target = folder / "src", folder / "dst"
        checkpoint.convert(source, folder / "bf16", to="bf16")
        ratio = stored(folder / "bf16") / stored(source)
        ways: list[tuple[str, str, Call, Call, float | None]] = [
            ("bf16", "copy", ours(folder), lambda: copy(source, target, ratio), COPY_GATE),
            ("bf16", "cp", ours(folder), lambda: cp(folder / "bf16", target), None),
            ("bf16, verified", "copy", ours(folder, verify=True), lambda: copy(source, target, ratio), None),
            (
                "bf16 -> fp8",
                "copy",
                ours(folder, to="fp8", source="bf16"),
                lambda: copy(folder / "bf16", target, 1 / ratio),
                None,
            ),
        ]
        for kernel, yardstick, call, beside, gate in ways:
            name = kernel if "->" in kernel else f"fp8 -> {kernel}"
            for threads in (1, 2) if gate else (2,):
                set_state(level, threads)
                m = alternate(call, beside, target, pairs)
                rate = parameters(size) / m.seconds / 1e9
                bar = gate if threads == 2 else None
                moved = (stored(source) + stored(folder / "bf16")) / m.seconds / 1e9
                note = f"{m.seconds:.2f} s, {moved:.2f} GB/s read and written"
                ours_of = f"x {yardstick}"
                yield Row(
                    name,
                    size.label,
                    level,
                    threads,
                    "file",
                    ours_of,
                    rate,
                    m.ratio,
                    bar,
                    pairs=m.pairs,
                    note=note,
                )
        memory = peak_memory(folder)
        yield Row(
            "fp8 -> bf16", size.label, level, 2, "file", "MiB", None, memory, MEMORY_GATE, at_most=True,
            pairs=1, note="peak memory beyond that of the process before",
        )  # fmt: skip
    yield from peer_rows(peer, level)
    yield from dialect_rows(*((2, 16) if size is QUICK else (16, 1)), pairs)


def peer_rows(size: Size, level: str) -> Iterator[Row]:
    """Others are so slow that they get a smaller checkpoint."""
    others = {"numpy+ml_dtypes": by_ml_dtypes} | ({"torch": by_torch} if torch else {})
    with made(size) as folder:
        set_state(level, 2)
        for name, way in others.items():
            beside = lambda way=way: way(folder / "src", folder / "dst")  # noqa: E731
            m = alternate(ours(folder), beside, folder / "dst", 3)
            rate = parameters(size) / m.seconds / 1e9
            note = f"{name}: {m.ratio * m.seconds:.2f} s"
            yield Row(
                "fp8 -> bf16", size.label, level, 2, "file", f"x {name}", rate, m.ratio, PEER_GATE,
                pairs=m.pairs, note=note,
            )  # fmt: skip


# --- Other dialects -----------------------------------------------------------------------------------------

PACKED_GATE, VERIFY_GATE = 0.8, 1 / 1.5
SIDES = (2048, 7168)


def stored_as(folder: Path, kind: str, weights: int, divide: int) -> None:
    """Random codes of a kind with their scales, in a folder of their own: as many weights of one shape."""
    rng, (rows, cols) = np.random.default_rng(0), (side // divide for side in SIDES)
    tensors: dict[str, Any] = {}
    for i in range(weights):
        name = f"model.layers.{i}.mlp.up_proj.weight"
        codes = rng.integers(0, 256, (rows, cols // 2), np.uint8)
        if kind == "fp8":
            tensors[name] = (rng.integers(0, 120, (rows, cols), np.uint8)).view(ml_dtypes.float8_e4m3fn)
            grid = (-(-rows // 128), -(-cols // 128))
            tensors[name + SCALE_INV] = rng.random(grid, np.float32)
        elif kind == "mxfp4":
            tensors |= {name: codes, f"{name}_scale": rng.integers(110, 130, (rows, cols // 32), np.uint8)}
        elif kind == "nvfp4":
            scales = rng.integers(1, 127, (rows, cols // 16), np.uint8).view(ml_dtypes.float8_e4m3fn)
            tensors |= {name: codes, f"{name}_scale": scales, f"{name}_scale_2": np.array(1e-3, np.float32)}
        else:
            scales = rng.random((rows, cols // 32), np.float32).astype(ml_dtypes.bfloat16)
            shape = np.array([rows, cols], np.int32)
            tensors[f"{name}_packed"] = codes.view(np.int32)
            tensors |= {f"{name}_scale": scales, f"{name}_shape": shape}
    (folder / kind).mkdir()
    checkpoint.save(folder / kind / "model.safetensors", tensors)


def dialect_rows(weights: int = 16, divide: int = 1, pairs: int = PAIRS) -> Iterator[Row]:
    """Packed codes beside FP8 that gives as much output, and verifying beside not verifying."""
    level = levels()[-1]
    with tempfile.TemporaryDirectory(dir=MEMORY) as where:
        folder = Path(where)
        for kind in ("fp8", "mxfp4", "nvfp4", "int4"):
            stored_as(folder, kind, weights, divide)
        size = f"{weights} x {SIDES[0] // divide}x{SIDES[1] // divide}"
        elements = weights * math.prod(side // divide for side in SIDES)
        plain = ours(folder, source="fp8", threads=1)
        ways = [
            (f"{kind} -> bf16", "x fp8", PACKED_GATE, {"source": kind}) for kind in ("mxfp4", "nvfp4", "int4")
        ]
        ways.append(("fp8 -> bf16, verified", "x unverified", VERIFY_GATE, {"source": "fp8", "verify": True}))
        for kernel, yardstick, gate, options in ways:
            set_state(level, 1)
            m = alternate(ours(folder, threads=1, **options), plain, folder / "dst", pairs)
            rate = elements / m.seconds / 1e9
            note = f"{m.seconds:.2f} s, {2 * rate:.2f} GB/s of output"
            yield Row(
                kernel, size, level, 1, "file", yardstick, rate, m.ratio, gate, pairs=m.pairs, note=note
            )  # fmt: skip


# --- What run.py calls --------------------------------------------------------------------------------------


def quick() -> str:
    """Convert a small checkpoint by every way; all must give the textbook's bytes."""
    checked = 0
    with made(QUICK) as folder:
        by = {"ours": ours(folder), "numpy": lambda: by_ml_dtypes(folder / "src", folder / "dst")}
        if torch:
            by["torch"] = lambda: by_torch(folder / "src", folder / "dst")
        for name, call in by.items():
            call()
            checked += compare(folder / "src", folder / "dst", name)
            shutil.rmtree(folder / "dst")
        assert peak_memory(folder) < MEMORY_GATE
    small = list(rows(QUICK, QUICK, 1))
    return f"{len(small)} rows, {checked} tensors equal to the reference"


def compare(source: Path, target: Path, way: str) -> int:
    """Hold every tensor against the textbook."""
    with checkpoint.open(source) as before, checkpoint.open(target) as after:
        for name in after:
            wanted: Any = before[name]
            if name + SCALE_INV in before:
                codes, scales = wanted, before[name + SCALE_INV]
                q = reference.Quantized(
                    codes, scales, codes.dtype.name, (128, 128), None, "float32", None, None
                )
                wanted = q.dequantize("bfloat16")
            if wanted.tobytes() != after[name].tobytes():
                raise AssertionError(f"{name} differs, made by {way}")
        return len(after)
