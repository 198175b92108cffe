"""Files that are fuzzed, and who reads them.

Lives here: `TARGETS`, one row a kind of file: small good files made at run time, which of them are changed,
and a reader that goes as deep as a user would. Programs of the command are readers too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import ml_dtypes
import numpy as np

import dialects
import dsv3_numerics as d3
import torch_archive
from dsv3_numerics import checkpoint, cli, compare, golden
from dsv3_numerics._regular import read_small_text
from dsv3_numerics.cli.prompt import parse_ids
from dsv3_numerics.codesign.drafts import accepted_share
from dsv3_numerics.codesign.errors import read_errors
from dsv3_numerics.codesign.hardware import machines, read_hardware
from dsv3_numerics.codesign.reader import read_shape
from dsv3_numerics.codesign.replicas import read_load
from dsv3_numerics.codesign.routes import read_trace
from dsv3_numerics.compare.sources import opened
from dsv3_numerics.model import ByteTokenizer, Config, Recipe, demo_checkpoint, random_checkpoint
from dsv3_numerics.report.files import read_results
from dsv3_numerics.schemes import Scheme
from dsv3_numerics.tasks.journal import Journal, journal_name, open_journal, read_head
from dsv3_numerics.tasks.plan import Part
from dsv3_numerics.tasks.task import Task

DOCUMENTED = (ValueError, OSError)
"""Exceptions that files may raise: `CheckpointError` is a ValueError, and so are all of the package."""


class Target(NamedTuple):
    """One kind of file.

    Attributes
    ----------
    make : callable
        Writes good files into a new folder.
    change : tuple of str
        Patterns of the files that are changed.
    read : callable
        Reads the folder, of which the second argument is the file that was changed.
    writes : tuple of str
        Patterns of names below the folder that the reader may write.
    """

    make: Callable[[Path], Any]
    change: tuple[str, ...]
    read: Callable[[Path, Path], Any]
    writes: tuple[str, ...] = ()


# --- Good files ---------------------------------------------------------------------------------------------


def _tensors(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 256)).astype(np.float32)
    q = d3.quantize_blocks(x, block=(128, 128))
    arrays = {
        "x": x,
        "half": x.astype(np.float16),
        "b": x.astype(ml_dtypes.bfloat16),
        "w": q.codes,
        "w_scale_inv": q.weight_scale_inv(),
        "none": np.zeros((0, 3), np.float32),
        "one": np.float64(1.5).reshape(()),
        "ids": np.arange(5, dtype=np.int64),
    }
    checkpoint.save(folder / "x.safetensors", arrays, metadata={"format": "pt"})


def _model(folder: Path) -> None:
    config = dataclasses.replace(Config.preset("tiny"), num_hidden_layers=2)
    random_checkpoint(folder, config, shard_bytes=200_000)
    (folder / "tokenizer.json").write_bytes((demo_checkpoint() / "tokenizer.json").read_bytes())


def _config_only(folder: Path) -> None:
    (folder / "config.json").write_bytes((demo_checkpoint() / "config.json").read_bytes())


def _dialect(folder: Path) -> None:
    for name in dialects.LAYOUTS:
        dialects.make(name).write(folder / name.replace(" ", "-"))


def _numpy(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", rng.normal(size=(6, 40)).astype(np.float32))
    np.savez(folder / "b.npz", x=rng.normal(size=(3, 8)), y=np.arange(4), n=np.zeros((0, 2), np.float32))
    np.savez_compressed(folder / "c.npz", x=rng.normal(size=(30, 8)).astype(np.float16))


def _saved(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    d3.quantize_tiles(x).save(folder / "tiles.npz")
    d3.quantize_tiles(x[:, :192], tile=16, scale="nvfp4", fmt="float4_e2m1fn").save(folder / "nvfp4.npz")
    d3.logfmt_encode(x, bits=8).save(folder / "logfmt.npz")


def _recipes(folder: Path) -> None:
    (folder / "preset.json").write_text(json.dumps({"preset": "deepseek_v3", "cache": "fp8"}))
    for name in ("deepseek_v3", "blackwell", "bf16"):
        (folder / f"{name}.json").write_text(Recipe.read(name).to_json())


def _torch(folder: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    torch_archive.save(folder / "a.pt", {"x": x, "y": np.arange(3), "z": x.astype(ml_dtypes.bfloat16)})
    for rank in range(2):
        place = folder / "dump" / f"TP{rank}_PP0_Rank{rank}_pid1"
        place.mkdir(parents=True)
        torch_archive.save(place / "Pass00000.pt", {"model.layers.0.mlp.gate_up_proj": x + rank, "norm": x})


def _golden(folder: Path) -> None:
    for form in ("safetensors", "npz", "bin"):
        golden.write("cast", folder / form, form=form, cases=["ties"])
    golden.write("quantize", folder / "quantize", cases=["normal"])
    about = {"format": "dsv3_numerics.golden/1", "parts": ["bin", "npz"], "tensors": []}
    (folder / "manifest.json").write_text(json.dumps(about))


HEAD = {"source": "w", "to": "bf16", "files": [1, 2]}


def _journals(folder: Path) -> None:
    for part in (Part(1, 2), Part(2, 2)):
        with open_journal(folder, "convert", HEAD, resume=False, part=part, arguments={"a": 1}) as journal:
            journal.note(Task(part.index, f"f{part.index}", 2.0), {"stats": [1, 2.5], "name": "w"})
            journal.note(Task(2 + part.index, f"g{part.index}", 2.0), {"stats": [], "name": None})


def _study(folder: Path) -> None:
    np.savez(folder / "w.npz", a=np.ones((4, 64), np.float32), b=np.eye(64, dtype=np.float32))
    _verb("study", str(folder / "w.npz"), "-s", "mxfp8", "--out", str(folder / "out"), "--part", "1/2")


def _sensitivity(folder: Path) -> None:
    _model(folder / "model")
    _verb(*_sensitivity_command(folder), "--part", "1/9")


def _sensitivity_command(folder: Path) -> list[str]:
    words = ["--ids", "1,2,3", "--only", "combine", "--perturbations", "0", "--out", str(folder / "out")]
    return ["sensitivity", str(folder / "model"), *words]


def _codesign(folder: Path) -> None:
    row = next(iter(machines()))
    source = Path(d3.__file__).parent / "codesign" / "data"
    for path in sorted(source.glob("*.toml")):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "row.toml").write_text(f'base = "{row}"\n')
    (folder / "load.csv").write_text("expert,load\n0,5\n1,7\n2,1\n3,3\n")
    (folder / "errors.csv").write_text("scheme,tensor,rel_l2\nmxfp8,a,0.1\n")
    (folder / "accept.json").write_text(json.dumps({"drafts": {"accepted": 3, "drafted": 4}}))
    np.save(folder / "load.npy", np.arange(8))
    np.save(folder / "trace.npy", np.arange(16).reshape(2, 4, 2))


WORDS = [
    "e4m3:1x128:f32", "mxfp8", "nvfp4", "logfmt8:1x128", "int8:1x128", "e4m3:1x128:f32:deepgemm", "e5m6",
    "1/8", "hopper_fp8", "deepseek_v3", "3,1,4", "e3m2:tensor:ue8m0",
]  # fmt: skip


def _words(folder: Path) -> None:
    for number, word in enumerate(WORDS):
        (folder / f"{number}.txt").write_text(word)


OUTCOMES: Counter[str] = Counter()
"""Readings that a reader answered, and those that it refused."""


# --- Readers ------------------------------------------------------------------------------------------------


def _each(*calls: Callable[[], Any], raises: tuple[type[Exception], ...] = ()) -> None:
    """Make all calls, whatever documented exception each raises."""
    for call in calls:
        try:
            call()
            OUTCOMES["answered"] += 1
        except (*DOCUMENTED, *raises):
            OUTCOMES["refused"] += 1


def _read_checkpoint(path: Path) -> None:
    def numbers() -> None:
        with checkpoint.open(path) as ckpt:
            for info in list(ckpt.infos())[:200]:
                _each(lambda name=info.name: ckpt[name])  # type: ignore[misc]
            for name in list(ckpt.weights)[:60]:
                _each(
                    lambda name=name: ckpt.dequantized(name, np.float32),  # type: ignore[misc]
                    lambda name=name: ckpt.quantized(name),  # type: ignore[misc]
                )

    _each(numbers, lambda: checkpoint.inspect(path, scales=True), lambda: _read_source(path))


def _read_source(path: Path) -> None:
    for tensor in checkpoint.open_source(path).tensors:
        with contextlib.suppress(*DOCUMENTED), tensor.open() as rows:
            rows(0, min(tensor.rows, 1000), 0, min(tensor.cols, 1000))


def _read_model(folder: Path, path: Path) -> None:
    ids = folder / "ids.txt"
    _each(
        lambda: Config.from_json(folder / "config.json"),
        lambda: ByteTokenizer.from_file(folder / "tokenizer.json"),
        lambda: checkpoint.inspect(folder),
    )
    _verb("inspect", str(folder))
    _verb("run", str(folder), "--ids", "1,2,3" if not ids.exists() else f"@{ids}", "--text", "ab")
    _verb("run", str(folder), "--ids", "1,2,3")


def _read_config(folder: Path, path: Path) -> None:
    path = folder / "config.json"
    _each(lambda: Config.from_json(path), lambda: read_shape(path), lambda: checkpoint.inspect(folder))
    _verb("inspect", str(folder))
    _verb("run", str(folder), "--ids", "1")
    _verb("codesign", "kv", str(path))
    _verb("make", str(folder / "made"), "--config", str(path), "--include", "nothing")


def _read_tensors(path: Path) -> None:
    with opened(path, "a") as held:
        for name in list(held):
            _each(lambda name=name: np.asarray(held[name]).tobytes())  # type: ignore[misc]


def _read_files(_: Path, path: Path) -> None:
    """Read by every reader of tensors, and the command."""
    _each(lambda: _read_source(path), lambda: _read_tensors(path))
    _verb("compare", str(path), str(path))


def _read_dump(folder: Path, path: Path) -> None:
    place = folder / path.relative_to(folder).parts[0]
    _each(lambda: _read_tensors(place))
    _verb("compare", str(place), str(place))
    if place.is_dir():
        _verb("compare", "--model", str(place), str(place))


def _read_dialects(_: Path, path: Path) -> None:
    _read_checkpoint(path.parent)


def _read_golden(folder: Path, path: Path) -> None:
    place = path.parent
    _each(
        lambda: golden.verify(place),
        lambda: golden.verify(place, recompute=True),
        lambda: compare.compare(place, folder),
    )
    _verb("golden", "verify", str(place))


def _read_recipes(_: Path, path: Path) -> None:
    _each(lambda: Recipe.load(path), lambda: Recipe.read(str(path)), raises=(TypeError,))
    _verb("run", "--demo", "--text", "ab", "--max-new-tokens", "1", "--recipe", str(path))


def _read_saved(_: Path, path: Path) -> None:
    _each(lambda: d3.Quantized.load(path).dequantize(), lambda: d3.logfmt_decode(d3.LogFmt.load(path)))


def _read_journals(folder: Path, path: Path) -> None:
    def taken_up(part: Part | None) -> Journal:
        with open_journal(folder, "convert", HEAD, resume=True, part=part) as journal:
            return journal

    _each(
        *(lambda path=path: read_head(path) for path in sorted(folder.glob(".*.jsonl"))),  # type: ignore[misc]
        lambda: taken_up(Part(1, 2)),
        lambda: taken_up(None),
    )
    (folder / journal_name("convert")).unlink(missing_ok=True)
    _verb("merge", str(folder))


def _read_study(folder: Path, path: Path) -> None:
    source, out = str(folder / "w.npz"), str(folder / "out")
    read_results(folder / "out")
    _verb("merge", out)
    _verb("study", source, "-s", "mxfp8", "--out", out, "--part", "1/2")


def _read_sensitivity(folder: Path, path: Path) -> None:
    _verb("merge", str(folder / "out"))
    _verb(*_sensitivity_command(folder), "--part", "1/9")


def _read_codesign(_: Path, path: Path) -> None:
    _each(
        lambda: read_hardware(str(path)),
        lambda: accepted_share(path),
        lambda: read_load(path),
        lambda: read_trace(path),
        lambda: read_errors([path]),
        lambda: read_shape(path),
    )


def _read_words(_: Path, path: Path) -> None:
    try:
        word = read_small_text(path)
    except DOCUMENTED:
        return
    _each(
        lambda: Scheme.parse(word),
        lambda: Part.parse(word),
        lambda: d3.accumulator_info(word),
        lambda: d3.Rule.parse(word),
        lambda: d3.format_info(word),
        lambda: Recipe.read(word),
        lambda: d3.encode(np.ones(3, np.float32), word),
    )
    with contextlib.suppress(click.ClickException):
        parse_ids(f"@{path}")


def _verb(*args: str) -> None:
    """Run the command in this process: an exit code that is documented, and no traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(args))
        except SystemExit as stop:
            code = stop.code
    told = err.getvalue()
    if code not in (0, 1, 2) or "Traceback" in told:
        raise AssertionError(f"{args[:2]}: exit code {code}, {told[:500]}")
    OUTCOMES["refused" if code else "answered"] += 1
    if code and not told.strip() and args[0] not in ("inspect", "compare"):
        raise AssertionError(f"{args}: exit code {code} without a word")


TARGETS: dict[str, Target] = {
    "safetensors": Target(_tensors, ("*.safetensors",), lambda _, path: _read_checkpoint(path)),
    "model": Target(_model, ("*.json",), _read_model),
    "headers of a model": Target(_model, ("*.safetensors",), _read_model),
    "config": Target(_config_only, ("config.json",), _read_config, ("made/*",)),
    "dialects": Target(_dialect, ("*/*.json", "*/*.safetensors"), _read_dialects),
    "numpy": Target(_numpy, ("*.npy", "*.npz"), _read_files),
    "saved": Target(_saved, ("*",), _read_saved),
    "recipes": Target(_recipes, ("*",), _read_recipes),
    "torch": Target(_torch, ("*.pt", "dump/*/*.pt"), _read_dump),
    "golden": Target(_golden, ("manifest.json", "*/manifest.json", "*/*.npz"), _read_golden),
    "journals": Target(_journals, (".*.jsonl",), _read_journals, (".*",)),
    "study": Target(_study, ("out/.*", "out/**/*.json*", "w.npz"), _read_study, ("out/*",)),
    "sensitivity": Target(_sensitivity, ("out/**/*.json*", "out/.*"), _read_sensitivity, ("out/*",)),
    "codesign": Target(_codesign, ("*",), _read_codesign),
    "words": Target(_words, ("*",), _read_words),
}
