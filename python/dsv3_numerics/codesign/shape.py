"""The sizes that a model's arithmetic needs: `Shape`, a list of layers, each an attention and an MLP.

Lives here: what a model multiplies and stores. `families` reads a ``config.json`` into it. Unlike
`dsv3_numerics.model.Config`, which accepts only what the forward runs, a shape accepts what can be counted.
Not here: bytes of cache formats (`sizes`), time (`roofline`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .attention import Compressed, Gqa, Mla


@dataclass(frozen=True)
class Dense:
    """A gated MLP: gate, up and down."""

    width: int
    biased: bool = False


@dataclass(frozen=True)
class Moe:
    """Routed experts, `chosen` of them for a token, beside shared ones; all gated MLPs of one width."""

    experts: int
    chosen: int
    shared: int
    width: int
    router_bias: bool = False
    expert_bias: bool = False


@dataclass(frozen=True)
class Layer:
    """An attention and an MLP, each behind a norm."""

    attention: Gqa | Mla | Compressed
    mlp: Dense | Moe
    mixing: int = 0  # streams of DeepSeek-V4's hyper-connections


@dataclass(frozen=True)
class Shape:
    """Sizes of a model from which everything here is counted.

    Attributes
    ----------
    name, family : str
    layers : tuple of Layer
    hidden, vocab : int
    tied : bool
        Output head and input embedding are one matrix.
    mtp : tuple of Layer
        Layers of multi-token prediction; not counted before `with_mtp`.
    notes : tuple of str
        Sentences on what was left out.

    Examples
    --------
    >>> from dsv3_numerics.codesign import read_shape
    >>> shape = read_shape("deepseek_v3")
    >>> len(shape.layers), shape.parameters()["routed"].total
    (61, 653908770816)
    """

    name: str
    family: str
    layers: tuple[Layer, ...]
    hidden: int
    vocab: int
    tied: bool = False
    mtp: tuple[Layer, ...] = ()
    heads_of_mtp: int = 0
    notes: tuple[str, ...] = field(default=(), compare=False)

    def with_mtp(self) -> Shape:
        """Return the same with its layers of multi-token prediction, and their projections of two inputs."""
        if not self.mtp:
            raise ValueError(f"--mtp: {self.name} has no layers of multi-token prediction")
        return replace(self, layers=self.layers + self.mtp, mtp=(), heads_of_mtp=len(self.mtp))

    @property
    def moe(self) -> Moe | None:
        """The first MoE, or None."""
        return next((layer.mlp for layer in self.layers if isinstance(layer.mlp, Moe)), None)

    def parameters(self) -> dict[str, Part]:
        """Parameters by part: all, and those that a token is multiplied by."""
        d = self.hidden
        found = {name: Part() for name in PARTS}
        for layer in self.layers:
            found["attention"] += Part.of(layer.attention.products(d))
            small = layer.attention.small(d) + 2 * d
            mlp = layer.mlp
            if isinstance(mlp, Dense):
                found["dense"] += Part.of(3 * d * mlp.width)
                small += 2 * mlp.width + d if mlp.biased else 0
            else:
                one = 3 * d * mlp.width
                found["routed"] += Part(mlp.experts * one, mlp.chosen * one)
                found["shared"] += Part.of(mlp.shared * one)
                found["router"] += Part.of(d * mlp.experts)
                small += mlp.experts if mlp.router_bias else 0
                small += mlp.experts * (2 * mlp.width + d) if mlp.expert_bias else 0
            streams = layer.mixing
            found["mixing"] += Part.of(2 * streams * d * (2 + streams) * streams)
            found["small"] += Part(small, 0)
        found["attention"] += Part.of(self.heads_of_mtp * 2 * d * d)
        found["small"] += Part(d + self.heads_of_mtp * 3 * d, 0)
        found["head"] = Part(0 if self.tied else d * self.vocab, d * self.vocab)
        found["embedding"] = Part(d * self.vocab, 0)
        return found

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(part.total for part in self.parameters().values())

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied by: head and router counted, the embedding not."""
        return sum(part.multiplied for part in self.parameters().values())

    @property
    def active(self) -> int:
        """`multiplied` and the input embedding, once where it is the head too."""
        return self.multiplied + (0 if self.tied else self.hidden * self.vocab)


PARTS = ("attention", "dense", "routed", "shared", "router", "mixing", "head", "embedding", "small")
"""Parts of `Shape.parameters`; small: norms, biases, sinks."""


@dataclass(frozen=True)
class Part:
    """Parameters of a part: all, and those that one token is multiplied by."""

    total: int = 0
    multiplied: int = 0

    @classmethod
    def of(cls, weights: int) -> Part:
        """Weights that every token is multiplied by."""
        return cls(weights, weights)

    def __add__(self, other: Part) -> Part:
        return Part(self.total + other.total, self.multiplied + other.multiplied)
