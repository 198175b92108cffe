"""Continuing a sequence: greedy and sampled, token by token, and speculatively with multi-token prediction.

Lives here: `generate`, `stream` and `Generation`. What a model is asked for is `hidden`, `head` and
`mtp_hidden`; nothing else of it is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array, brief, positive
from .cache import Cache
from .recipe import Recipe

if TYPE_CHECKING:
    from .model import Model

Ids = NDArray[np.int64]
Settings: TypeAlias = dict[str, Any]
"""Settings of every forward: absorbed and recipe."""


_MOST = 1 << 31  # new tokens


@dataclass
class Speculation:
    """How multi-token prediction did.

    Attributes
    ----------
    drafted, accepted : int
        Tokens that it proposed, and those that the model itself would have chosen.
    model_seconds, draft_seconds : float
        Spent in the model and in MTP, the prompt left out.
    steps : int
        Forwards of the model.
    """

    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    draft_seconds: float = 0.0

    @property
    def acceptance(self) -> float:
        """The share of drafts that were right: the paper reports 80 to 90 % for the released model."""
        return self.accepted / self.drafted if self.drafted else math.nan

    @property
    def cost(self) -> float:
        """Seconds of a draft over seconds of a forward."""
        return self.draft_seconds / self.model_seconds if self.model_seconds else math.nan

    @property
    def expected_speedup(self) -> float:
        """``(1 + p) / (1 + c)`` of acceptance p and cost c, if two tokens take a forward as long as one."""
        return (1 + self.acceptance) / (1 + self.cost)


@dataclass
class Generation:
    """Outcome of `generate`.

    Attributes
    ----------
    tokens : ndarray of int64, shape (new,) or (batch, new)
        Without the prompt. A sequence that has ended is filled up with its end token.
    prompt_tokens : int
        Tokens of a prompt.
    prompt_seconds, seconds : float
        For the prompt, and for the tokens after the first.
    speculation : Speculation or None
        Where MTP drafted.
    """

    tokens: Ids
    prompt_tokens: int
    prompt_seconds: float
    seconds: float
    speculation: Speculation | None = None

    @property
    def tokens_per_second(self) -> float:
        """New tokens of a sequence in a second, the prompt left out."""
        new = self.tokens.shape[-1] - 1
        return new / self.seconds if self.seconds > 0 and new > 0 else math.nan


@dataclass
class Sampler:
    """Chooses a token from logits: the likeliest (the lower id among equals), or by chance.

    Attributes
    ----------
    temperature : float
        0 is greedy.
    top_k : int or None
        Only among so many of the likeliest.
    top_p : float or None
        Only among the likeliest that together have this probability.
    seed : int
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: found {self.temperature}, expected a number of at least 0")
        if self.top_k is not None:
            positive(self.top_k, "top_k")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: found {self.top_p}, expected more than 0 and at most 1")
        self._random = np.random.default_rng(self.seed)

    def __call__(self, logits: Array) -> Ids:
        """Tokens for logits (batch, vocab_size), shape (batch,)."""
        if self.temperature == 0:
            return best(logits)
        return np.array([self._draw(row) for row in np.asarray(logits, np.float64)], np.int64)

    def _draw(self, logits: Array) -> int:
        order = np.argsort(-logits, kind="stable")[: self.top_k]
        p = np.exp((logits[order] - logits[order[0]]) / self.temperature)
        p /= p.sum()
        if self.top_p is not None:
            keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1
            order, p = order[:keep], p[:keep] / p[:keep].sum()
        drawn = int(np.searchsorted(np.cumsum(p), self._random.random()))
        return int(order[min(drawn, len(order) - 1)])


def generate(
    model: Model,
    ids: ArrayLike,
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos: int | None = None,
    cache: Cache | None = None,
    speculative: bool = False,
    absorbed: bool | None = None,
    recipe: Recipe | str | None = None,
    on_token: Callable[[Ids], None] | None = None,
) -> Generation:
    """Continue sequences of tokens.

    Parameters
    ----------
    model : Model
    ids : array_like of int, shape (tokens,) or (batch, tokens)
        The prompt, at least one token.
    max_new_tokens : int
    temperature, top_k, top_p, seed
        0 is greedy; see `Sampler`.
    eos : int, optional
        The token that ends a sequence; the config's by default, -1 for none.
    cache : Cache, optional
        Of sequences that the prompt continues; it is filled on. One of the right size by default.
    speculative : bool
        Let the model's MTP layer draft every second token. Greedy, one sequence. The tokens are those of
        plain greedy decoding; under a recipe in codes, if `absorbed` is given and each token is quantized for
        itself.
    absorbed, recipe
        As for `Model.forward`.
    on_token : callable, optional
        Called with each new token of all sequences, shape (batch,), as it comes.

    Returns
    -------
    Generation

    Raises
    ------
    TypeError, ValueError
        As `Model.forward`; settings out of range; speculation of more than one sequence, with a temperature,
        or without an MTP layer.

    Examples
    --------
    >>> from dsv3_numerics.model import Config, Model, random_weights
    >>> config = Config.preset("tiny")
    >>> model = Model(config, random_weights(config))
    >>> plain = model.generate([3, 1, 4], max_new_tokens=8, eos=-1)
    >>> fast = model.generate([3, 1, 4], max_new_tokens=8, eos=-1, speculative=True)
    >>> plain.tokens.tolist() == fast.tokens.tolist()
    True
    """
    prompt = as_array(ids, "ids")
    if prompt.ndim not in (1, 2) or prompt.shape[-1] == 0 or prompt.size == 0:
        raise ValueError(f"ids: found shape {prompt.shape}, expected a prompt of at least one token")
    limit = positive(max_new_tokens, "max_new_tokens")
    if limit > _MOST:
        raise ValueError(f"max_new_tokens: found {brief(limit)}, expected at most {_MOST}")
    most = model.config.vocab_size - 1
    if eos is not None and eos > most:
        raise ValueError(f"eos: found {brief(eos)}, expected at most {most}, or -1 for none")
    given = model.config.eos_token_ids if eos is None else (eos,)
    ends = tuple(i for i in given if 0 <= i <= most)
    batch = np.atleast_2d(prompt)
    if cache is None:
        cache = model.new_cache(len(batch), batch.shape[1] + limit + 1, recipe=recipe)
    sampler = Sampler(temperature, top_k, top_p, seed)
    how: Settings = {"absorbed": absorbed, "recipe": recipe}
    speculation = None
    if speculative:
        speculation = Speculation()
        if temperature or len(batch) > 1 or not model.mtp_layers:
            raise ValueError(
                f"speculative: found temperature {temperature}, {len(batch)} sequences and "
                f"{len(model.mtp_layers)} layers of MTP, expected 0, 1 and at least 1"
            )
        tokens = _speculative(model, batch, cache, speculation, how)
    else:
        tokens = _plain(model, batch, cache, sampler, how)
    start = time.perf_counter()
    first = start
    found: list[Ids] = []
    ended = np.zeros(len(batch), bool)
    for token in tokens:
        if not found:
            first = time.perf_counter()
        if ends:
            token = np.where(ended, ends[0], token)
            ended |= np.isin(token, ends)
        found.append(token)
        if on_token is not None:
            on_token(token)
        if len(found) == limit or ended.all():
            break
    out = np.stack(found, axis=1)
    seconds = time.perf_counter() - first
    return Generation(
        out if prompt.ndim == 2 else out[0], batch.shape[1], first - start, seconds, speculation
    )


def stream(
    model: Model,
    ids: ArrayLike,
    *,
    sampler: Sampler | None = None,
    capacity: int = 4096,
    recipe: Recipe | str | None = None,
) -> Iterator[int]:
    """Tokens that continue one sequence, as they come, until the cache is full.

    Parameters
    ----------
    model : Model
    ids : array_like of int, shape (tokens,)
    sampler : Sampler, optional
        Greedy by default.
    capacity : int
        Tokens, the prompt among them.
    recipe : Recipe or str, optional
        What runs in which format, see `Model.forward`.

    Examples
    --------
    >>> from itertools import islice
    >>> from dsv3_numerics.model import Config, Model, random_weights, stream
    >>> config = Config.preset("tiny")
    >>> tokens = stream(Model(config, random_weights(config)), [3, 1, 4])
    >>> len(list(islice(tokens, 5)))
    5
    """
    batch = np.atleast_2d(as_array(ids, "ids"))
    if len(batch) != 1 or batch.shape[1] == 0:
        raise ValueError(f"ids: found shape {batch.shape}, expected one sequence of at least one token")
    cache = model.new_cache(1, capacity, recipe=recipe)
    for token in _plain(model, batch, cache, sampler or Sampler(), {"recipe": recipe}):
        yield int(token[0])


def _plain(model: Model, prompt: Ids, cache: Cache, sampler: Sampler, how: Settings) -> Iterator[Ids]:
    """One token of every sequence for each forward."""
    token = sampler(model.forward(prompt, cache=cache, last=True, **how))
    yield token
    while int(cache.lengths.max()) < cache.capacity:
        token = sampler(model.decode(token, cache, **how))
        yield token


def _speculative(model: Model, prompt: Ids, cache: Cache, log: Speculation, how: Settings) -> Iterator[Ids]:
    """Greedy decoding: MTP guesses the token after the next, and the model checks both in one forward.

    The model's cache holds all tokens but the newest; MTP's holds every pair (hidden state at i, token i +
    1).
    """
    kept = cache.format.scheme, cache.index_format.scheme
    drafts = Cache(model.config, 1, cache.capacity, dtype=kept[0], index_dtype=kept[1], layers=1)
    recipe = how.get("recipe")
    hidden = model.hidden(prompt, cache=cache, **how)
    token = best(model.head(hidden[:, -1:], recipe=recipe))
    yield token[0]
    pairs = hidden, np.concatenate([prompt[:, 1:], token], axis=1)
    while int(cache.lengths[0]) + 2 <= cache.capacity:
        started = time.perf_counter()
        draft = best(model.head(model.mtp_hidden(*pairs, cache=drafts, **how)[:, -1:], recipe=recipe))
        checked = time.perf_counter()
        hidden = model.hidden(np.concatenate([token, draft], axis=1), cache=cache, **how)
        truth = best(model.head(hidden, recipe=recipe))
        if log.steps:  # the first draft also reads the prompt
            log.draft_seconds += checked - started
            log.model_seconds += time.perf_counter() - checked
        log.steps += 1
        log.drafted += 1
        yield truth[0, :1]
        if truth[0, 0] == draft[0, 0]:
            log.accepted += 1
            yield truth[0, 1:]
            pairs, token = (hidden, truth), truth[:, 1:]
        else:
            cache.truncate(cache.lengths - 1)
            pairs, token = (hidden[:, :1], truth[:, :1]), truth[:, :1]


def best(logits: Array) -> Ids:
    """Return the likeliest tokens over the last axis; the lower id among equals."""
    found: Ids = np.argmax(logits, axis=-1).astype(np.int64)
    return found
