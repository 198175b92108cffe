"""Attentions of published models: weights, work for a cached token, and what is kept of a token."""

from __future__ import annotations

from dataclasses import dataclass


def seen(tokens: float, span: int | None) -> float:
    """Tokens that a layer sees of `tokens`: at most its span."""
    return tokens if span is None else min(tokens, span)


@dataclass(frozen=True)
class Gqa:
    """Grouped-query attention; multi-head and multi-query are its two ends."""

    heads: int
    kv_heads: int
    head_dim: int
    span: int | None = None
    biases: str = ""  # letters of q, k, v, o
    norms: bool = False
    sinks: bool = False

    def products(self, hidden: int) -> int:
        """Weights of q, k, v and o."""
        return 2 * hidden * self.head_dim * (self.heads + self.kv_heads)

    def small(self, hidden: int) -> int:
        """Biases, norms of q and k, sinks."""
        width = {"q": self.heads * self.head_dim, "o": hidden}
        biases = sum(width.get(letter, self.kv_heads * self.head_dim) for letter in self.biases)
        return biases + (2 * self.head_dim if self.norms else 0) + (self.heads if self.sinks else 0)

    def expanded(self, tokens: float) -> float:
        """Scores and values: 4 H d_h a token seen."""
        return 4 * self.heads * self.head_dim * seen(tokens, self.span)

    def decoded(self, tokens: int) -> float:
        """As `expanded`."""
        return self.expanded(tokens)


@dataclass(frozen=True)
class Index:
    """The indexer of sparse attention (DeepSeek-V3.2): few heads score all keys, `topk` are read."""

    heads: int
    dim: int
    topk: int
    shared: bool = False  # takes the choice of an earlier layer: no weights, no keys, no work

    def scores(self, keys: float) -> float:
        """FLOP of scoring `keys` keys for one query."""
        return 0 if self.shared else 2 * self.heads * self.dim * keys


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: a latent of `rank` and a rotary key of `rope` channels are kept."""

    heads: int
    q_rank: int | None
    rank: int
    nope: int
    rope: int
    v: int
    biased: bool = False
    index: Index | None = None

    def products(self, hidden: int) -> int:
        """Weights of q_a, q_b, kv_a, kv_b, o and of the indexer; absorbing changes none of them."""
        queries = self.heads * (self.nope + self.rope)
        q = hidden * queries if self.q_rank is None else self.q_rank * (hidden + queries)
        kv = hidden * (self.rank + self.rope) + self.rank * self.heads * (self.nope + self.v)
        return q + kv + self.heads * self.v * hidden + self._index_products(hidden)

    def _index_products(self, hidden: int) -> int:
        index = self.index
        if index is None or index.shared:
            return 0
        assert self.q_rank is not None
        return self.q_rank * index.heads * index.dim + hidden * (index.dim + index.heads)

    def small(self, hidden: int) -> int:
        """Norms of the latents and of the index key (with its bias), biases."""
        norms = (self.q_rank or 0) + self.rank
        index = 2 * self.index.dim if self.index is not None and not self.index.shared else 0
        return norms + index + ((self.q_rank or 0) + self.rank + self.rope + hidden if self.biased else 0)

    def index_parameters(self, hidden: int) -> int:
        """Parameters of the indexer alone."""
        own = self.index is not None and not self.index.shared
        return self._index_products(hidden) + (2 * self.index.dim if own and self.index else 0)

    def expanded(self, tokens: float) -> float:
        """2 H (d_qk + d_v) a token, and the indexer's scores."""
        return self._over(tokens, self.nope + self.rope + self.v)

    def decoded(self, tokens: int) -> float:
        """2 H (2 r + R) a token: absorbed, queries meet the latents themselves."""
        return self._over(tokens, 2 * self.rank + self.rope)

    def _over(self, tokens: float, channels: int) -> float:
        if self.index is None:
            return 2 * self.heads * channels * tokens
        return 2 * self.heads * channels * min(tokens, self.index.topk) + self.index.scores(tokens)


@dataclass(frozen=True)
class Compressed:
    """DeepSeek-V4's attention: a window, and for every `ratio` tokens one row that is key and value."""

    heads: int
    head_dim: int
    rope: int
    q_rank: int
    o_groups: int
    o_rank: int
    window: int
    ratio: int  # 0: window only
    keeps: bool = True  # rows of its own; V4.1's other layers read those of an earlier layer
    index: Index | None = None
    known: bool = True  # False: bytes are known, weights are not published

    def rows(self, tokens: int) -> int:
        """Compressed rows kept of `tokens` tokens, the window's not among them."""
        return tokens // self.ratio if self.ratio and self.keeps else 0

    def products(self, hidden: int) -> int:
        """Weights of q, kv, grouped o, compressor, and indexer with its own compressor."""
        if not self.known:
            raise ValueError("cannot count the weights of deepseek_v41: its compressors are not published")
        width = self.heads * self.head_dim
        weights = self.q_rank * (hidden + width) + hidden * self.head_dim
        weights += self.o_rank * (width + self.o_groups * hidden)
        overlap = 2 if self.ratio == 4 else 1  # rows of ratio 4 overlap: two sets of columns
        if self.ratio:
            weights += 2 * overlap * hidden * self.head_dim
        if self.index is not None:
            weights += self.q_rank * self.index.heads * self.index.dim + hidden * self.index.heads
            weights += 2 * overlap * hidden * self.index.dim
        return weights

    def small(self, hidden: int) -> int:
        """Norms of q and kv, sinks."""
        return self.q_rank + self.head_dim + self.heads

    def expanded(self, tokens: float) -> float:
        """4 H d a row read, and the indexer's scores."""
        rows = tokens / self.ratio if self.ratio else 0
        read = min(tokens, self.window) + (min(rows, self.index.topk) if self.index else rows)
        return 4 * self.heads * self.head_dim * read + (self.index.scores(rows) if self.index else 0)

    def decoded(self, tokens: int) -> float:
        """As `expanded`."""
        return self.expanded(tokens)
