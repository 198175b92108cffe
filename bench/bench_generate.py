"""The trained model, token by token: generation under recipes beside float32, and the forward of one token.

`tiny-austen` is so small that calls, not arithmetic, are most of the time: this bench holds what the wrapper
costs. Weights that emulated units use again are laid out at their second use, before the first measured call.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench_model import beside, seconds
from dsv3_numerics.model import ByteTokenizer, Model, demo_checkpoint
from harness import Call, Row, Timed, set_state
from suite import product_levels

LEGEND = """\
`tiny-austen` (4.4 million parameters, FP8 blocks). `x float32` is the time in which the same model writes as
many tokens without a recipe, over ours; `s` are seconds of a call, the forward of one token after a prompt of
38, with a cache. The column Gelem/s holds 10^9 parameters that a token meets in a second (2.1 million; of the
forwards of all tokens that are written). Each is the median over alternating pairs; `(-n)`: n pairs were
dropped as disturbed."""

PROMPT = "It is a truth universally acknowledged"
RECIPES = ("deepseek_v3", "bf16")
MET = 2_100_000  # parameters that a token meets
FASTEST, SLOWEST = 0.5, 0.002  # of the tokens a second without a recipe; seconds of a token


def rows(tokens: int = 32) -> Iterator[Row]:
    """Generation under each recipe, and one token."""
    model = Model.from_checkpoint(demo_checkpoint())
    ids = np.array(ByteTokenizer.from_file(demo_checkpoint() / "tokenizer.json").encode(PROMPT))

    def written(recipe: str | None) -> Call:
        return lambda: model.generate(ids, max_new_tokens=tokens, eos=-1, recipe=recipe)

    def after_prompt(recipe: str | None) -> Call:
        cache = model.new_cache(1, len(ids) + 1, recipe=recipe)
        model.forward(ids[None], cache=cache, recipe=recipe)
        held = cache.lengths.copy()

        def call() -> None:
            cache.lengths[:] = held
            model.decode(ids[:1], cache, recipe=recipe)

        return call

    for threads in (1, 2):
        plain = Timed(written(None), lambda n=threads: set_state(product_levels()[-1], n))  # type: ignore[misc]
        for recipe in RECIPES:
            what, bar = f"generate, {recipe}", FASTEST if recipe == "deepseek_v3" else None
            yield beside(
                what, f"{tokens} tokens", threads, written(recipe), plain, "x float32", tokens * MET, bar
            )
        for name in (*RECIPES, None):
            limit = SLOWEST if name == "deepseek_v3" else None
            yield seconds(
                f"one token, {name or 'float32'}", "1 at 38", threads, after_prompt(name), MET, limit
            )


def quick() -> str:
    """Every call once, and the same tokens whether weights are laid out or not."""
    fresh, again = (Model.from_checkpoint(demo_checkpoint(), prepared_bytes=room) for room in (0, 1 << 30))
    ids = np.frombuffer(PROMPT.encode(), np.uint8).astype(np.int64)
    for recipe in RECIPES:
        first, second = (m.generate(ids, max_new_tokens=8, eos=-1, recipe=recipe) for m in (fresh, again))
        if not np.array_equal(first.tokens, second.tokens):
            raise AssertionError(f"{recipe}: other tokens where weights are laid out")
    return f"{len(list(rows(2)))} rows, the same tokens with and without prepared weights"
