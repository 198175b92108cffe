"""Schemes: what is written is read back, errors say what is possible, and bits count the scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics import _core, logfmt_encode, study
from dsv3_numerics.formats import formats
from dsv3_numerics.study import Scheme
from dsv3_numerics.study.schemes import DEFAULT_SPELLINGS, NAMED, short_names


def spellings() -> st.SearchStrategy[str]:
    names = [f.name for f in formats() if f.mantissa_bits]
    word = st.sampled_from([short_names()[n] for n in names] + names)
    size = st.integers(1, 1024)
    group = st.one_of(st.sampled_from(["row", "col", "tensor"]), st.builds("{}x{}".format, size, size))
    rule = st.sampled_from(["", *(":" + r["name"] for r in _core.scale_rules())])
    scaled = st.builds("{}:{}:{}{}".format, word, group, st.sampled_from(["f32", "ue8m0"]), rule)
    small = st.sampled_from([f.name for f in formats() if f.mantissa_bits and f.bits <= 8])
    standard = st.builds("{}:{}:{}".format, small, group, st.sampled_from(["mx", "nvfp4"]))
    bare = st.builds("{}:{}".format, word, group)
    cast = word.filter(lambda w: not w.startswith("int"))
    tiles = st.one_of(st.just("deepep"), st.builds("1x{}".format, size))
    rounding = st.sampled_from(["", ":linear", ":log"])
    log = st.builds("logfmt{}:{}{}".format, st.integers(3, 16), tiles, rounding)
    return st.one_of(scaled, standard, bare, cast, log, st.sampled_from(sorted(NAMED)))


@given(spellings())
def test_a_scheme_reads_what_it_writes(spelling: str) -> None:
    scheme = Scheme.parse(spelling)
    assert Scheme.parse(str(scheme)) == scheme
    assert str(Scheme.parse(str(scheme))) == str(scheme)


def test_names_and_defaults_are_spelled_as_documented() -> None:
    for name, spelling in NAMED.items():
        assert str(Scheme.parse(spelling)) == name
    assert tuple(map(str, study.DEFAULT_SCHEMES)) == DEFAULT_SPELLINGS
    assert str(Scheme.parse(" E4M3:1x128 ")) == "e4m3:1x128:f32"
    assert str(Scheme.parse("float8_e4m3fn:1x128:f32:deepgemm")) == "e4m3:1x128:f32:deepgemm"
    assert str(Scheme.parse("LogFMT8:1x128:linear")) == "logfmt8:1x128"
    assert str(Scheme.parse("logfmt10:deepep:log")) == "logfmt10:deepep:log"


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("e4m4:1x128:f32", "did you mean e4m3"),
        ("mxfp5", "did you mean mxfp"),
        ("", "unknown format"),
        ("e4m3:1x0:f32", "0 elements"),
        ("e4m3:1x99999999:f32", "expected 1 to"),
        ("e4m3:1*128:f32", "ROWSxCOLS"),
        ("e4m3:tenso:f32", "did you mean tensor"),
        ("e4m3:-1x128:f32", "unknown group"),
        ("e4m3:1x128:fp32", "did you mean f32"),
        ("e4m3:1x128:f32:deepgem", "did you mean deepgemm"),
        ("e4m3:1x32:mx:deepgemm", "take no rule"),
        ("e4m3:1x128:f32:deepgemm:x", "5 parts"),
        ("int8", "int8:1x128"),
        ("float8_e8m0fnu", "unknown format"),
        ("logfmt8", "expected for example logfmt8:1x128, logfmt8:1x128:log or logfmt8:deepep"),
        ("logfmt8:1x128:log:x", "4 parts"),
        ("logfmt2:1x128", "logfmt2 has 2 bits; expected 3 to 16"),
        ("logfmt17:deepep", "logfmt17 has 17 bits"),
        ("logfmt8:128x1", "expected tiles of a row, such as 1x128"),
        ("logfmt8:row", "expected tiles of a row"),
        ("logfmt8:1x0", "0 elements"),
        ("logfmt8:deepeep", "unknown group"),
        ("logfmt8:1x128:lin", "unknown rounding 'lin'; expected one of linear, log"),
        ("logfmt:1x128", "unknown format"),
    ],
)
def test_a_wrong_scheme_says_what_is_possible(spelling: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(spelling)


@pytest.mark.parametrize(
    ("spelling", "bits"),
    [
        ("bf16", 16),
        ("e4m3:1x128:f32", 8.25),
        ("e4m3:128x128:f32", 8 + 32 / 128**2),
        ("e4m3:tensor:f32", 8 + 32 / (256 * 512)),
        ("e4m3:row:f32", 8 + 32 / 512),
        ("e4m3:col:ue8m0", 8 + 8 / 256),
        ("mxfp8", 8.25),
        ("mxfp6", 6.25),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5 + 32 / (256 * 512)),
        ("e5m6:1x128:ue8m0", 12.0625),
        ("int4:1x128", 4.25),
        ("logfmt8:1x128", 8.5),
        ("logfmt10:1x64", 11),
    ],
)
def test_bits_count_the_scales(spelling: str, bits: float) -> None:
    assert Scheme.parse(spelling).bits(256, 512) == bits * 256 * 512


def test_ragged_groups_pay_for_a_whole_scale() -> None:
    assert Scheme.parse("e4m3:128x128:f32").bits(129, 1) == 129 * 8 + 2 * 32


def test_a_scheme_that_the_quantizer_refuses_is_named_before_any_work() -> None:
    with pytest.raises(ValueError, match="scheme 'bf16:1x16:nvfp4': "):
        study.run({"x": np.ones(4, np.float32)}, ["mxfp4", "bf16:1x16:nvfp4"])


def _sent(x: np.ndarray, spelling: str, **options: int) -> float:
    found = study.run({"x": x}, [spelling], **options)
    return found.totals()[0].pooled.bits_per_element


def test_deepep_counts_the_bits_that_are_really_sent() -> None:
    """10.25 bits where a chunk fits, 16 where it does not, and for rows that the kernel does not take."""
    x = np.random.default_rng(0).uniform(0.1, 0.9, (64, 2048)).astype(np.float32)
    assert Scheme.parse("logfmt10:deepep").bits(64, 2048) is None
    assert _sent(x, "logfmt10:deepep") == 10.25
    x[:32, 5] = 1
    assert _sent(x, "logfmt10:deepep") == 10.25 * 3 / 4 + 16 / 4
    assert _sent(x, "logfmt10:deepep", slab_elements=4096) == 10.25 * 3 / 4 + 16 / 4
    assert _sent(x[:, :512], "logfmt10:deepep") == 10.25 / 2 + 16 / 2
    assert _sent(x[:, :500], "logfmt10:deepep") == 16
    assert _sent(x[:, 0], "logfmt8:deepep") == 16


@pytest.mark.parametrize(
    "spelling", ["logfmt8:1x128", "logfmt10:1x64:log", "logfmt9:deepep", "logfmt8:deepep:log"]
)
def test_logfmt_schemes_are_the_functions(spelling: str) -> None:
    x = np.random.default_rng(0).standard_normal((8, 1024)).astype(np.float32) * np.float32(0.2)
    x[0, 0] = 0
    scheme = Scheme.parse(spelling)
    assert isinstance(scheme, study.LogTiles | study.DeepEPLog)
    deepep = isinstance(scheme, study.DeepEPLog)
    options = {"mode": "deepep"} if deepep else {"tile": scheme.group[1]}
    q = logfmt_encode(x, bits=scheme.width, rounding=scheme.rounding, **options)
    got = scheme.quantize(x)
    np.testing.assert_array_equal(got.values, q.dequantize())
    assert got.bits == (q.nbits if deepep else None)
    assert scheme.bits(8, 1024) == (None if deepep else q.nbits)


def test_logfmt_schemes_take_what_float32_holds(tmp_path: Path) -> None:
    x = np.geomspace(1e-44, 3.4e38, 1024, dtype=np.float32).reshape(2, 512)
    found = study.run(
        {"x": x, "zero": np.zeros((2, 512)), "one": np.ones(1)}, ["logfmt8:1x128", "logfmt8:deepep"]
    )
    assert [total.pooled.saturation_rate for total in found.totals()] == [0, 0]
    assert found.metrics("zero", "logfmt8:deepep").bits_per_element == 16
    assert "logfmt8:deepep" in found.save(tmp_path).read_text()
