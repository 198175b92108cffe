"""Schemes: what is written is read back, errors say what is possible, and bits count the scales."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics import (
    Quantized,
    encode,
    logfmt_encode,
    quantize,
    quantize_blocks,
    quantize_tiles,
    rules,
    study,
)
from dsv3_numerics.number_formats import Rounding, formats
from dsv3_numerics.schemes import NAMED, DeepEPLog, LogTiles, NotFiniteError, Scheme
from dsv3_numerics.schemes.scaled import NATIVE, short_names


def spellings() -> st.SearchStrategy[str]:
    names = [f.name for f in formats() if f.mantissa_bits]
    word = st.sampled_from([short_names()[n] for n in names] + names)
    size = st.integers(1, 1024)
    group = st.one_of(st.sampled_from(["row", "col", "tensor"]), st.builds("{}x{}".format, size, size))
    both = [name for name, r in rules().items() if "none" not in (r.scale_op, r.pow2_op) and r.max is None]
    rule = st.sampled_from(["", *(f":{name}" for name in both if rules()[name].least_exponent == -126)])
    scaled = st.builds("{}:{}:{}{}".format, word, group, st.sampled_from(["f32", "ue8m0"]), rule)
    small = st.sampled_from([f.name for f in formats() if f.mantissa_bits and f.bits <= 8])
    standard = st.builds("{}:{}:{}".format, small, group, st.sampled_from(["mx", "nvfp4"]))
    modes = st.sampled_from(["ceil", "even", "rceil"])
    modes = st.builds("e4m3:{}:mx:{}".format, group, modes)
    bare = st.builds("{}:{}".format, word, group)
    casting = ["", *(f":{rounding}" for rounding in get_args(Rounding))]
    cast = st.builds("{}{}".format, word.filter(lambda w: not w.startswith("int")), st.sampled_from(casting))
    tiles = st.one_of(st.just("deepep"), st.builds("1x{}".format, size))
    rounding = st.sampled_from(["", ":linear", ":log", ":stochastic"])
    log = st.builds("logfmt{}:{}{}".format, st.integers(3, 16), tiles, rounding)
    again = st.builds(
        "{}:requantized".format, st.one_of(scaled, standard, bare, st.sampled_from(sorted(NAMED)))
    )
    flashmla = st.builds("{}:{}:f32:flashmla".format, word, group)
    plain = st.sampled_from([*NAMED, *NATIVE, "none", "f32", "f64", "logfmt3", "logfmt16"])
    return st.one_of(scaled, standard, modes, bare, cast, log, again, flashmla, plain)


@given(spellings())
def test_a_scheme_reads_what_it_writes(spelling: str) -> None:
    scheme = Scheme.parse(spelling)
    assert Scheme.parse(str(scheme)) == scheme
    assert str(Scheme.parse(str(scheme))) == str(scheme)


def test_names_and_defaults_are_spelled_as_documented() -> None:
    for name, spelling in NAMED.items():
        assert str(Scheme.parse(spelling)) == name
    assert str(study.DEFAULT_SCHEMES[0]) == "bf16"
    assert str(Scheme.parse(" E4M3:1x128 ")) == "e4m3:1x128:f32"
    assert str(Scheme.parse("float8_e4m3fn:1x128:f32:deepgemm")) == "e4m3:1x128:f32:deepgemm"
    assert str(Scheme.parse("LogFMT8:1x128:linear")) == "logfmt8:1x128"
    assert str(Scheme.parse("logfmt10:deepep:log")) == "logfmt10:deepep:log"
    for spelling in (
        "mxfp8:rceil",
        "nvfp4:row",
        "nvfp4:row:nvfp4_vllm",
        "e5m2:1x128:f32:stochastic",
        "nvfp4:nvfp4_four_over_six:stochastic",
        "nvfp4:stochastic8",
        "e4m3:1x128:f32:deepgemm(amax_floor=0)",
        "e3m4b3_none:1x32:mx:even",
    ):
        assert str(Scheme.parse(spelling)) == spelling


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
        ("e4m3:1x32:mx:deepgemm", "rule: found one of another standard than MX"),
        ("e4m3:1x32:ue8m0:torchao", "rule: found one without powers of two"),
        ("e4m3:1x128:f32:rceil", "least_exponent: found -127"),
        ("e4m3:1x128:f32:deepgemm(floor=0)", "expected column=value"),
        ("e3m9b200_none:1x32:mx", "bias: found 200, expected"),
        ("e4m3:1x128:f32:deepgemm:x", "5 parts"),
        ("int8", "int8:1x128"),
        ("float8_e8m0fnu", "unknown format"),
        ("logfmt8:1x128:log:x", "4 parts"),
        ("logfmt2:1x128", "logfmt2 has 2 bits; expected 3 to 16"),
        ("logfmt17:deepep", "logfmt17 has 17 bits"),
        ("logfmt8:128x1", "expected tiles of a row, such as 1x128"),
        ("logfmt8:row", "expected tiles of a row"),
        ("logfmt8:1x0", "0 elements"),
        ("logfmt8:deepeep", "unknown group"),
        ("logfmt8:1x128:lin", "unknown rounding 'lin'; expected one of linear, log, stochastic"),
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
    assert isinstance(scheme, LogTiles | DeepEPLog)
    deepep = isinstance(scheme, DeepEPLog)
    options = {"mode": "deepep"} if deepep else {"tile": scheme.group[1]}
    q = logfmt_encode(x, bits=scheme.width, rounding=scheme.rounding, **options)
    got = scheme.approximate(x)
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


# --- The front door ---------------------------------------------------------------------------------------


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_quantize_is_the_function_of_its_kind() -> None:
    x = normal(3, 256, 256)
    for spelling, expected in [
        ("mxfp8", quantize_tiles(x, tile=32, scale="mx")),
        ("e4m3:1x64:ue8m0:vllm", quantize_tiles(x, tile=64, scale="ue8m0", rule="vllm")),
        ("e4m3:row:f32", quantize_tiles(x, tile=None)),
        ("int8:64x32", quantize_blocks(x, fmt="int8", block=(64, 32))),
        ("nvfp4", quantize_tiles(x, fmt="float4_e2m1fn", tile=16, scale="nvfp4")),
    ]:
        q = quantize(x, spelling)
        assert (q.format, q.block, q.axis, q.scale_kind) == (
            expected.format, expected.block, expected.axis, expected.scale_kind,
        )  # fmt: skip
        np.testing.assert_array_equal(q.codes.view(np.uint8), expected.codes.view(np.uint8))
        np.testing.assert_array_equal(q.dequantize(), expected.dequantize())
        assert Scheme.parse(spelling).nbytes(x.shape) == Scheme.parse(spelling).bits(3 * 256, 256) / 8
    log = quantize(x, "logfmt10:1x32:log")
    np.testing.assert_array_equal(log.codes, logfmt_encode(x, bits=10, tile=32, rounding="log").codes)
    assert (quantize(x, "bf16") == x.astype(ml_dtypes.bfloat16)).all()
    assert (quantize(x, np.float64) == x).all()
    assert quantize(x, "none") is x
    e4m3 = quantize(x, "e4m3:stochastic", seed=3)
    np.testing.assert_array_equal(
        e4m3.view(np.uint8), encode(x, "float8_e4m3fn", rounding="stochastic", seed=3).view(np.uint8)
    )


def test_tensor_is_one_scale_for_a_stack() -> None:
    x = normal(3, 4, 8)
    q = quantize(x, "e4m3:tensor:f32")
    assert q.shape == x.shape
    assert len(set(q.scales.ravel())) == 1
    flat = quantize(x.reshape(12, 8), "e4m3:tensor:f32")
    np.testing.assert_array_equal(q.dequantize().reshape(12, 8), flat.dequantize())
    assert quantize(x[0, 0], "e4m3:tensor:f32").shape == (8,)


def test_quantize_writes_where_it_is_told() -> None:
    x = normal(2, 64)
    first = quantize(x, "mxfp8")
    out = np.empty_like(first.codes), np.empty_like(first.scales)
    assert quantize(x, "mxfp8", out=out).codes is out[0]
    plain = np.empty(x.shape, ml_dtypes.bfloat16)
    assert quantize(x, "bf16", out=plain) is plain


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("mxfp8", {"seed": 3}, "seed: found 3"),
        ("bf16", {"seed": 3}, "does not round at random"),
        ("bf16:stochastic", {}, "seed: found none"),
        ("mxfp8:stochastic8", {}, "seed: found none"),
        ("logfmt8", {"rounding": "stochastic"}, "seed: found none"),
        ("logfmt8", {"rounding": "up"}, "expected one of linear"),
        ("bf16", {"rounding": "log"}, "expected one of nearest_even"),
        ("none", {"rounding": "up"}, "no use for it"),
        (np.negative, {"seed": 3}, "no use for it"),
        ("e4m4", {}, "did you mean"),
        ("bf16:1x16:nvfp4", {}, "fmt: found bfloat16"),
    ],
)
def test_what_quantize_refuses(scheme: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(normal(2, 64), scheme, **options)


def test_numbers_that_are_not_finite_are_told_from_bad_arguments() -> None:
    with pytest.raises(NotFiniteError):
        quantize(np.float32([1, np.inf]), "mxfp8")


class Rotated:
    """Channels rotated by a Hadamard matrix before MXFP4."""

    h = np.float32([[1]])
    for _ in range(5):
        h = np.block([[h, h], [h, -h]]) / np.float32(2**0.5)

    def quantize(self, x: np.ndarray) -> Quantized:
        return quantize((x.reshape(-1, 32) @ self.h).reshape(x.shape), "mxfp4")

    def dequantize(self, q: Quantized) -> np.ndarray:
        return (q.dequantize().reshape(-1, 32) @ self.h).reshape(q.shape)


def test_a_scheme_of_ones_own() -> None:
    x = normal(40, 64)
    x[:, 3] *= 100  # an outlier channel, which a rotation spreads
    found = study.run({"x": x}, ["mxfp4", Rotated(), lambda a: a * 2])
    plain, rotated, doubled = (total.pooled for total in found.totals())
    assert rotated.bits_per_element == plain.bits_per_element == 4.25
    assert rotated.sqnr_db != plain.sqnr_db
    assert np.isnan(doubled.bits_per_element)
    assert doubled.relative_error == 1
    own = Scheme.parse(Rotated())
    assert (str(own), own == Scheme.parse(own)) == ("Rotated", True)
    np.testing.assert_array_equal(own.read_back(x), Rotated().dequantize(Rotated().quantize(x)))


def test_a_scheme_of_ones_own_sees_the_whole_tensor(tmp_path: Path) -> None:
    seen = []

    def centred(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x - x.mean()

    found = study.run({"x": normal(300, 200)}, [centred, "bf16"], slab_elements=1000)
    assert seen[-1] == (300, 200)
    found.save(tmp_path)


@pytest.mark.parametrize("bad", [3, None, Rotated, object(), b"mxfp8"])
def test_what_is_no_scheme(bad: object) -> None:
    with pytest.raises(TypeError, match="scheme: found"):
        Scheme.parse(bad)


def test_a_scheme_of_ones_own_that_gives_back_something_else() -> None:
    with pytest.raises(ValueError, match=r"gave back float32 of shape \(2,\)"):
        study.run({"x": normal(2, 4)}, [lambda x: x.sum(axis=1)])
