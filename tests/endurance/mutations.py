"""Mutations of files: bytes, numbers in text, nodes of JSON, entries of archives, and their lengths.

Lives here: `mutated`, which takes a file apart where it knows the container (safetensors, zip, lines of
JSON), changes something inside, and puts it together again, so that the change is reached; or changes bytes.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

ABSURD: tuple[Any, ...] = (
    0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 10**6, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    -(2**31), -(2**63), 10**30, -(10**30), 10**400, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e300, float("inf"),
    float("-inf"), float("nan"), True, False, None, "", "a", "\0", "\ud800", "..", "/etc/passwd",
    "/dev/zero", "model.safetensors", "*", "float32", "e4m3", "F8_E4M3",
    "re:(a+)+$", "x" * 70_000, [], {}, [[]], [None],
    [1, 2], [0, 2**63], [-1, 4], ["a"], [{}], {"a": 1}, {"": None}, [1] * 300, [[[[[[1]]]]]],
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_DEEP = 20_000  # brackets in one another


def mutated(name: str, content: bytes, rng: random.Random) -> bytes:
    """Return a file of this name with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        content = _inside(name, content, rng) if rng.random() < 0.75 else _bytes(content, rng)
    return content


def _inside(name: str, content: bytes, rng: random.Random) -> bytes:
    for suffixes, change in _CONTAINERS:
        if name.endswith(suffixes):
            try:
                return change(content, rng)
            except Exception:  # it was destroyed by a change before
                break
    return _text(content, rng)


# --- Bytes and text -----------------------------------------------------------------------------------------


def _bytes(content: bytes, rng: random.Random) -> bytes:
    size = len(content)
    near = min(size, rng.choice((16, 256, 4096, size or 1)))  # most of the structure is in front
    at = rng.randrange(near) if near else 0
    if rng.random() < 0.2:  # or at the end, as that of zip
        at = max(0, size - 1 - at)
    length = rng.choice((1, 2, 4, 8, 30, 200))
    patch = rng.choice(
        (
            bytes([content[at] ^ 1 << rng.randrange(8)]) if size else b"",
            rng.randbytes(length),
            struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, size, size + 1)))[
                : rng.choice((2, 4, 8))
            ],
            b"\xff" * length,
            bytes(length),
        )
    )
    how = rng.randrange(5)
    if how == 0:
        return content[:at]
    if how == 1:
        return content[:at] + content[at + length :]
    if how == 2:
        return content[:at] + patch + content[at:]
    if how == 3:
        return content + patch
    return content[:at] + patch + content[at + len(patch) :]


def _text(content: bytes, rng: random.Random) -> bytes:
    """Put another number or word into text, or treat it as bytes."""
    places = list(_NUMBER.finditer(content[:65536]))
    if not places or rng.random() < 0.3:
        return _bytes(content, rng)
    place = rng.choice(places)
    value = rng.choice(ABSURD)
    word = str(value) if isinstance(value, int | float | str) else json.dumps(value)
    return content[: place.start()] + word[:400].encode("utf-8", "surrogatepass") + content[place.end() :]


# --- JSON ---------------------------------------------------------------------------------------------------


def _json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(changed(json.loads(content), rng)).encode()


def changed(value: Any, rng: random.Random) -> Any:
    """Return JSON with another value at one place."""
    root = [copy.deepcopy(value)]
    holder, key = rng.choice(list(_places(root, 4000)))
    old, how = holder[key], rng.randrange(8)
    if how < 4:
        holder[key] = copy.deepcopy(rng.choice(ABSURD))
    elif how == 4:
        del holder[key]
    elif how == 5 and isinstance(holder, dict):
        holder[rng.choice(("", "a", "\0", "..", key + "x", key[:-1], *map(str, list(holder)[:3])))] = old
    elif how == 6:
        other, there = rng.choice(list(_places(root, 4000)))
        holder[key] = copy.deepcopy(other[there]) if _depth(other[there]) < 20 else 1
    elif isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = rng.choice(
            (-old, old + 1, old - 1, old * 2, old // 2 if old == old and abs(old) < 1e308 else 0)
        )
    elif isinstance(old, str):
        holder[key] = rng.choice((old.upper(), old[1:], old * 3, old + "\0", old[::-1]))
    else:
        holder[key] = [old]
    return root[0] if root else None


def _places(value: Any, most: int) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < most:
        one = todo.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        found += [(one, key) for key in keys]
        todo += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(one) for one in inside), default=0)


def _json_text(content: bytes, rng: random.Random) -> bytes:
    """Change JSON as a value, or as text: numbers that no value has, keys that come twice, depth."""
    how = rng.randrange(10)
    if how < 7:
        return _json(content, rng)
    if how == 7:
        bracket = rng.choice((b"[", b'{"a":'))
        return bracket * rng.choice((50, 900, _DEEP))
    if how == 8:
        at = content.find(b"{") + 1
        first = content[at : content.find(b",", at)]
        return content[:at] + first + b"," + content[at:]
    return _text(content, rng)


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = _json_text(lines[at], rng) if rng.random() < 0.8 else rng.choice(lines)
    return b"\n".join(lines)


# --- Containers ---------------------------------------------------------------------------------------------


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header = _json_text(content[8 : 8 + size], rng)
    if rng.random() < 0.5:  # as most writers pad it
        header += b" " * (-len(header) % 8)
    length = len(header) if rng.random() < 0.9 else max(0, len(header) + rng.randint(-9, 9))
    return struct.pack("<Q", length) + header + content[8 + size :]


def _npy(content: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<H", content[8:10])
    header = _text(content[10 : 10 + size], rng)[:65535]
    if rng.random() < 0.2:
        header = header.replace(
            b"<f4", rng.choice((b"|O", b"<f2", b">f8", b"V9", b"<U3", b"M8[s]", b"f4,f4"))
        )
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + size :]


def _zip(content: bytes, rng: random.Random) -> bytes:
    """Change an entry, its name, or how it is packed; checksums are those of what is there."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
        comment = archive.comment
    at = rng.randrange(len(entries))
    name, inner, packed = entries[at]
    how = rng.randrange(10)
    if how < 7 or not entries:
        inner = mutated(name, inner, rng) if rng.random() < 0.9 else rng.choice(entries)[1]
    elif how == 7:
        name = rng.choice(("../x.npy", "", "/x", "a" * 5000, name + "x", entries[0][0], name.upper()))
    elif how == 8:
        packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif comment:
        comment = mutated("comment.json", comment, rng)[:65535]
    else:
        comment = b"{}"
    entries[at] = (name, inner, packed)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, inner, packed in entries:
            archive.writestr(zipfile.ZipInfo(name or "x"), inner, packed)
        archive.comment = comment
    return out.getvalue()


_CONTAINERS: tuple[tuple[tuple[str, ...], Callable[[bytes, random.Random], bytes]], ...] = (
    ((".safetensors",), _safetensors),
    ((".json",), _json_text),
    ((".jsonl",), _json_lines),
    ((".npy",), _npy),
    ((".npz", ".pt", ".pth"), _zip),
)
