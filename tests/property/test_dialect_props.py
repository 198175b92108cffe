"""Layouts with random changes: converted right, or refused; never anything between."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dialects import BASE, LAYOUTS, ONE, Layout, W, make
from dsv3_numerics.checkpoint import CheckpointError, convert, open

ADDED = {
    f"{W}_scale_2": np.float32(0.5).reshape(()),
    f"{W}_global_scale": ONE,
    f"{W}_zero_point": np.int32([[0]]),
    f"{W}_scale_inv": np.float32([[1]]),
    f"{W}_scale": np.float32([[1]]),
    f"{BASE}.scale": np.float32([[1]]),
    f"{BASE}.scale_weight": ONE,
    f"{BASE}.comfy_quant": np.frombuffer(b'{"format": "nvfp4"}', np.uint8),
    f"{BASE}.pre_quant_scale": ONE,
    f"{BASE}.qweight": np.int32([[1]]),
}
SECTION = {
    "quant_method": ["fp8", "mxfp8", "mxfp4", "compressed-tensors", "modelopt", "quark", "awq", 3, None],
    "weight_block_size": [[7, 7], [1, 16], None, "128"],
    "fmt": ["e4m3", "e5m2", "e3m4", 4],
    "scale_fmt": ["ue8m0", "float", "x"],
    "quant_algo": ["FP8", "NVFP4", "W4A8_AWQ", None],
    "config_groups": [{}, {"g": {"weights": {"num_bits": 3, "type": "int", "strategy": "group"}}}, []],
    "format": ["dense", "marlin-24"],
    "sparsity_config": [{"format": "sparse-24-bitmask"}],
}
OTHER_DTYPES = {
    "U8": "I8",
    "I8": "U8",
    "I32": "U32",
    "F32": "I32",
    "F8_E4M3": "U8",
    "BF16": "I16",
    "F16": "I16",
}


def changed(draw: st.DrawFn, layout: Layout) -> str:
    """Change one thing that a lying, broken or newer file could have otherwise."""
    names = sorted(layout.tensors)
    kind = draw(st.sampled_from(["drop", "add", "shape", "dtype", "section", "config", "rename"]))
    name = draw(st.sampled_from(names))
    x: Any = layout.tensors[name]
    if kind == "drop":
        del layout.tensors[name]
    elif kind == "add":
        more = draw(st.sampled_from(sorted(set(ADDED) - set(names))))
        layout.tensors[more] = ADDED[more]
    elif kind == "shape" and not isinstance(x, tuple):
        shapes = [x.shape[::-1], (x.size,), (*x.shape, 1), (1, *x.shape), (x.size, 1), (1, x.size)]
        layout.tensors[name] = x.reshape(draw(st.sampled_from(shapes)))
    elif kind == "dtype" and not isinstance(x, tuple):
        from dsv3_numerics.checkpoint.dtypes import DTYPES, of_numpy

        other = OTHER_DTYPES.get(of_numpy(x.dtype).name)
        if other is not None:
            layout.tensors[name] = x.view(DTYPES[other].element)
    elif kind == "rename":
        end = draw(st.sampled_from(["_scale", "_scale_inv", "_packed", "_blocks", ".scale", "x"]))
        layout.tensors[name + end] = layout.tensors.pop(name)
    elif layout.config is not None:
        layout.config = copy.deepcopy(layout.config)
        if kind == "config":
            layout.config.pop("quantization_config", None)
        else:
            key = draw(st.sampled_from(sorted(SECTION)))
            section = layout.config.setdefault("quantization_config", {})
            section[key] = draw(st.sampled_from(SECTION[key]))
    return kind


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_layout_is_right_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(LAYOUTS)))
    layout = make(name, data.draw(st.integers(0, 3)))
    before = dict(layout.tensors)
    for _ in range(data.draw(st.integers(1, 2))):
        if layout.tensors:
            data.draw(st.composite(changed)(layout))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as where:
        source, target = Path(where, "src"), Path(where, "out")
        layout.write(source)
        try:
            convert(source, target, to="f32", threads=1)
        except CheckpointError:
            refused = True
        else:
            refused = False
        written = list(target.glob("*.safetensors")) if target.exists() else []
        assert bool(written) != refused
        if refused:
            return
        with open(target) as after:
            for weight, meaning in layout.meaning.items():
                if weight in after and _is_whole(layout, before, weight):
                    assert after[weight].dtype == np.float32, (name, weight)
                    assert after[weight].tobytes() == meaning.tobytes(), (name, weight)
            kinds = {info.dtype for info in after.infos() if info.shape and info.name.endswith("weight")}
            assert not kinds & {"F8_E4M3", "F8_E5M2", "F4", "U8", "I8"}, "codes were copied in silence"


def _is_whole(layout: Layout, before: dict[str, Any], weight: str) -> bool:
    """Tell if the weight's own tensors have the bytes that they had, and codes the shape."""
    own = [name for name in before if name.startswith(weight)]
    codes = own[0]
    kept = all(n in layout.tensors and _bytes(layout.tensors[n]) == _bytes(before[n]) for n in own)
    return kept and _shape(layout.tensors[codes]) == _shape(before[codes])


def _bytes(x: Any) -> bytes:
    return x[2] if isinstance(x, tuple) else x.tobytes()


def _shape(x: Any) -> list[int]:
    return list(x[1] if isinstance(x, tuple) else x.shape)
