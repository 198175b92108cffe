"""README of a ready set: how a stranger uses it with NumPy alone.

Lives here: the text, and the pieces of code in it, which tests run without this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TEXT = """# Golden vectors for {name}

Inputs, and what they must become bit for bit, for kernels of {name} and others that do the same. NumPy is
enough to use them: each folder holds all tensors of one operation ({form}), and its `manifest.json` says
what each of them is (file, dtype, shape, format of codes, layout of scales, meaning, SHA-256), by which rule,
unit, recipe and seed.

{parts}

## Reading

```python
{reading}
```

## What is in it

A tensor's name begins with its case; `weights.` are shared by all cases. Each case is there to catch one
fault:

{cases}

Codes and bfloat16 come as unsigned integers. Codes of 4 bits stand two in a byte, the low one first. Scales
whose layout is a kernel's also stand in `..._row_major`, one for each row and group.

```python
{meaning}
```

{uses}

## Your results against these

```python
def differing(ours, name, yours):
    \"\"\"How many elements differ in any bit, and the first of them.\"\"\"
    bits = lambda x: np.ascontiguousarray(x).view(f"u{{x.dtype.itemsize}}").reshape(-1)
    places = np.flatnonzero(bits(ours[name]) != bits(yours))
    return len(places), places[:1].tolist()

ours, rows = load({part!r})
assert differing(ours, {first!r}, ours[{first!r}].copy()) == (0, [])
```

Sums that a unit makes (`d`, `y`, `dx`, `dw`, linear layers under a recipe) are those of the unit to the bit.
What the recipe leaves to float32 (attention, SwiGLU, the gate) is computed in float64 in a fixed order and
rounded once: a kernel that adds in another order may differ in the last place, and then in a code behind it.

With the package: write your results in a folder with the same names, and `dsv3-numerics compare THIS YOURS`
shows where they differ, and why. Made by dsv3_numerics {version} with
`dsv3-numerics golden suite --for {name} --form {form} --seed {seed}`.
"""

_READING = '''import hashlib
import json
import pathlib

import numpy as np

def load(folder):
    """All tensors of a folder by name, checked by hash, and the manifest's row of each."""
    folder, ours, rows, files = pathlib.Path(folder), {{}}, {{}}, {{}}
    for row in json.loads((folder / "manifest.json").read_text())["tensors"]:
        kind = row["dtype"]  # what NumPy does not know is read as unsigned integers
        plain = {{"bfloat16": "<u2"}}.get(kind, "u1" if kind.startswith("float8") else kind)
{get}
        array = raw.view(np.dtype(plain).newbyteorder("<")).reshape(row["shape"])
        assert hashlib.sha256(array.tobytes()).hexdigest() == row["sha256"], row["name"]
        ours[row["name"]], rows[row["name"]] = array, row
    return ours, rows

ours, rows = load({part!r})
print(len(ours), "tensors, such as", next(iter(ours)))'''

_GET = {
    "safetensors": """        if row["file"] not in files:
            data = (folder / row["file"]).read_bytes()
            size = int.from_bytes(data[:8], "little")
            files[row["file"]] = json.loads(data[8 : 8 + size]), data[8 + size :]
        header, data = files[row["file"]]
        start, stop = header[row["name"]]["data_offsets"]
        raw = np.frombuffer(data[start:stop], np.uint8)""",
    "npz": """        if row["file"] not in files:
            files[row["file"]] = np.load(folder / row["file"])
        raw = np.ascontiguousarray(files[row["file"]][row["name"]]).reshape(-1).view(np.uint8)""",
    "bin": """        raw = np.fromfile(folder / row["file"], np.uint8)""",
}

_MEANING = '''def numbers(array, row):
    """Read codes, scales or bfloat16 as float32."""
    name = row["format"] or row["dtype"]
    if name == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if name == "float8_e8m0fnu":
        return np.ldexp(np.float32(1), array.astype(np.int32) - 127)
    layout = {"float8_e4m3fn": (4, 3, 7), "float8_e5m2": (5, 2, 15), "float4_e2m1fn": (2, 1, 1)}
    if name not in layout:
        return array.astype(np.float32)
    exponent, mantissa, bias = layout[name]
    if name == "float4_e2m1fn":
        array = np.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], -1)
    e = (array >> mantissa) & (2**exponent - 1)
    m = array & (2**mantissa - 1)
    value = np.ldexp(np.where(e > 0, m + 2**mantissa, m), np.maximum(e, 1).astype(int) - bias - mantissa)
    value = np.where(array >> (exponent + mantissa) & 1, -value, value).astype(np.float32)
    top = e == 2**exponent - 1  # E4M3 has NaN in its last code alone, E5M2 infinities too
    if name == "float8_e4m3fn":
        return np.where(top & (m == 7), np.float32(np.nan), value)
    if name == "float8_e5m2":
        special = np.where(m == 0, np.copysign(np.float32(np.inf), value), np.float32(np.nan))
        return np.where(top, special, value)
    return value'''

_QUANTIZED = """# {part}: codes times scales are the input, but for the rounding of codes.
ours, rows = load({part!r})
codes = numbers(ours["normal.codes"], rows["normal.codes"])
name = "normal.scales_row_major" if "normal.scales_row_major" in ours else "normal.scales"
scales = numbers(ours[name], rows[name])
high, wide = {high}, {wide}
factors = np.repeat(np.repeat(scales, high, axis=0), wide, axis=1)[: codes.shape[0], : codes.shape[1]]
outer = ours.get("normal.global_scale", np.ones(1, np.float32))
x = ours["normal.x"]
error = np.abs(codes * factors * outer - x).max() / np.abs(x).max()
assert error < {bound}, error"""

_LAYOUTS = {
    "mn_major": """# {part}: DeepGEMM's layout, (groups, rows filled up to four).
ours, rows = load({part!r})
stored, plain = ours[{scales!r}], ours[{plain!r}]
assert (stored[:, : plain.shape[0]].T == plain).all()""",
    "packed_ue8m0": """# {part}: four exponents to an int32, (words, rows filled up to four).
ours, rows = load({part!r})
stored, plain = ours[{scales!r}], ours[{plain!r}]
words = np.ascontiguousarray(stored.T)  # (rows, words)
bytes_of = words.view(np.uint8).reshape(len(words), -1)
assert (bytes_of[: plain.shape[0], : plain.shape[1]] == plain).all()""",
    "128x4": """# {part}: in the 512 bytes of a tile, row r and column c are at 16 (r % 32) + 4 (r // 32) + c.
ours, rows = load({part!r})
stored, plain = ours[{scales!r}].reshape(-1), ours[{plain!r}]
r, c = np.indices(plain.shape)
tile = (r // 128) * -(-plain.shape[1] // 4) + c // 4
place = 512 * tile + 16 * (r % 32) + 4 * (r % 128 // 32) + c % 4
assert (stored[place] == plain).all()""",
}

_PRODUCT = """# {part}: partial sums show the first step that differs; the last promotion is the product.
ours, rows = load({part!r})
sums = ours[{sums!r}]
d = numbers(ours["normal.d"], rows["normal.d"])
last = sums[-1]
if rows["normal.d"]["dtype"] == "bfloat16":
    bits = last.view(np.uint32)
    last = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
assert (last == d).all()"""

_MODEL = """# {part}: a checkpoint that engines load stands in {part}/model; its answers are in the tensors.
ours, rows = load({part!r})
config = json.loads(pathlib.Path({part!r}, "model", "config.json").read_text())
assert numbers(ours["hidden.logits"], rows["hidden.logits"]).shape[-1] == config["vocab_size"]"""


def readme(name: str, form: str, seed: int, version: str, parts: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Write the README of a set.

    Parameters
    ----------
    name, form, seed, version
        Of the set, and of the package.
    parts : sequence of (str, manifest)
        Folders and their manifests.
    """
    cases: dict[str, str] = {}
    told = []
    for part, manifest in parts:
        cases.update(manifest["cases"])
        facts = ", ".join(f"{key} {_said(value)}" for key, value in manifest["arguments"].items())
        told.append(f"* `{part}/`: {manifest['operation']} ({facts})")
    first, manifest = parts[0]
    one = next(row["name"] for row in manifest["tensors"] if row["name"].endswith(("codes", ".d")))
    return _TEXT.format(
        name=name,
        form=form,
        seed=seed,
        version=version,
        parts="\n".join(told),
        cases="\n".join(f"* `{case}`: {catches}" for case, catches in cases.items()),
        reading=_READING.format(get=_GET[form], part=first),
        meaning=_MEANING,
        uses="\n\n".join(f"```python\n{code}\n```" for code in _examples(parts)),
        first=one,
        part=first,
    )


def _said(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _examples(parts: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return an example for each thing that the set has: codes, each layout, products, a checkpoint."""
    found: dict[str, str] = {}
    for part, manifest in parts:
        operation, arguments = manifest["operation"], manifest["arguments"]
        names = {row["name"]: row for row in manifest["tensors"]}
        if operation == "quantize" and "normal" in manifest["cases"]:
            high, wide = arguments["block"]
            bound = 0.2 if arguments["fmt"].startswith("float4") else 0.04
            found.setdefault("codes", _QUANTIZED.format(part=part, high=high, wide=wide, bound=bound))
        for name, row in names.items():
            plain = f"{name}_row_major"
            if row["layout"] in _LAYOUTS and plain in names and len(names[plain]["shape"]) == 2:
                wanted = names[plain]["shape"][0]
                if row["shape"][-1] >= wanted or row["layout"] == "128x4":
                    code = _LAYOUTS[row["layout"]].format(part=part, scales=name, plain=plain)
                    found.setdefault(row["layout"], code)
        sums = next((f"normal.{s}" for s in ("promotion_sums", "step_sums") if f"normal.{s}" in names), "")
        if operation == "product" and sums:
            found.setdefault("product", _PRODUCT.format(part=part, sums=sums))
        if operation == "forward":
            found.setdefault("model", _MODEL.format(part=part))
    return list(found.values())
