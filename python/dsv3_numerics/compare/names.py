"""Names of one thing in several projects: a table of spellings, and the matching of two lists.

Lives here: rewriting to one spelling, that of a DeepSeek checkpoint without its prefix.
"""

from __future__ import annotations

import re

_TRACED = {
    "attn_out": "attn",
    "mlp_out": "mlp",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "c_kv": "kv_a_layernorm",
    "router_logits": "gate",
    "shared": "shared_experts",
}
"""Intermediates of traces, by the modules that hand them out."""

SPELLINGS: tuple[tuple[str, str, str], ...] = (
    ("msprobe", r"^Module\.", ""),
    ("transformers, vLLM, SGLang", r"^model\.(?!$)", ""),
    ("wrappers (torch.compile, FSDP)", r"\b(_orig_mod|_fsdp_wrapped_module|module)\.", ""),
    ("msprobe", r"\.[A-Z]\w*\.forward\.0\.output(\.0)?$", ""),
    ("msprobe", r"\.[A-Z]\w*\.forward\.0\.parameters\.", "."),
    ("dumps", r"\.(output|forward\.output|forward\.0\.output)(\.0)?$", ""),
    (
        "SGLang (first of several outputs)",
        r"^(?!Functional|Tensor|Torch)(.*)(?<!layers)(?<!layer)(?<!experts)\.0$",
        r"\1",
    ),
    ("traces of this package", r"^layer(\d+)(?=\.|$)", r"layers.\1"),
    (
        "attention and feed-forward in modules of their own",
        r"(\.(self_attn|mla_attn|attn|mlp))+\.(?=\w)",
        ".",
    ),
    ("transformers, vLLM, SGLang", r"\.self_attn$", ".attn"),
    *(("traces of this package", rf"\.{name}$", f".{module}") for name, module in _TRACED.items()),
    ("traces of this package", r"^final_norm$", "norm"),
    ("traces of this package", r"^logits$", "lm_head"),
    ("SGLang", r"^logits_processor$", "lm_head"),
)
"""Rows of who writes so, a pattern, and what it becomes; applied in order."""


def canonical(name: str) -> str:
    """Rewrite a name to the one spelling.

    Examples
    --------
    >>> canonical("model.layers.1.self_attn.q_a_proj"), canonical("layer1.q_a_proj")
    ('layers.1.q_a_proj', 'layers.1.q_a_proj')
    """
    prefix, name = re.match(r"((?:pass\d+\.)?)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    for _, pattern, to in SPELLINGS:
        name = re.sub(pattern, to, name)
    return f"{prefix}{name}"


def match_names(a: list[str], b: list[str]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Match two lists of names: as they are, then by their one spelling where that is unique on both sides.

    Returns
    -------
    pairs, only_a, only_b

    Examples
    --------
    >>> match_names(["x", "layer0.mlp.gate"], ["model.layers.0.mlp.gate", "x", "y"])
    ([('x', 'x'), ('layer0.mlp.gate', 'model.layers.0.mlp.gate')], [], ['y'])
    """
    theirs = set(b)
    pairs = [(name, name) for name in a if name in theirs]
    done = {name for name, _ in pairs}
    left, right = ([n for n in names if n not in done] for names in (a, b))
    by_left, by_right = _unique(left), _unique(right)
    pairs += [(name, by_right[key]) for key, name in by_left.items() if key in by_right]
    used_a, used_b = {x for x, _ in pairs}, {y for _, y in pairs}
    return pairs, [n for n in a if n not in used_a], [n for n in b if n not in used_b]


def _unique(names: list[str]) -> dict[str, str]:
    """Map spellings to names, without those that several names share."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(canonical(name), []).append(name)
    return {key: many[0] for key, many in found.items() if len(many) == 1}
