"""Directive ``format-values``: every value of every format of at most eight bits, to look through.

The values are the package's own, decoded when the site is built; the script only shows them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import dsv3_numerics as d3

BITS = 8


def values() -> dict[str, dict[str, Any]]:
    """Collect fields and values of all codes, by format."""
    found = {}
    for info in d3.formats():
        if info.bits > BITS:
            continue
        codes = np.arange(1 << info.bits, dtype=np.uint8)
        found[info.name] = {
            "bits": info.bits,
            "exponent": 0 if info.is_integer else info.exponent_bits,
            "mantissa": info.bits - 1 if info.is_integer else info.mantissa_bits,
            "bias": None if info.is_integer else info.bias,
            "largest": repr(float(info.max)),
            "values": [repr(float(v)) for v in d3.decode(codes, fmt=info.name)],
        }
    return found


class FormatValues(SphinxDirective):
    """Put the values into the page, with the elements that the script fills."""

    def run(self) -> list[nodes.Node]:
        """Write the page's part."""
        data = json.dumps(values(), separators=(",", ":"))
        html = (
            '<div class="format-values" id="format-values">'
            "<p>The values are shown by a script; without it, <code>dsv3-numerics formats NAME</code> "
            "prints them.</p></div>"
            f'<script type="application/json" id="format-data">{data}</script>'
            '<script src="../_static/formats.js" defer></script>'
        )
        return [nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("format-values", FormatValues)
    return {"parallel_read_safe": True}
