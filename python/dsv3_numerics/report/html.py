"""One page of HTML with its own pictures, for light and dark: nothing is loaded from elsewhere.

Lives here: `document` (head, style and body of a page) and `write_html`, which makes one of the lines of a
Markdown report and of its pictures. Figures come from the results; nothing is computed here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .files import write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6670; --paper: #ffffff; --line: #d8dde3;
  --cell: #eef1f4; --hot: #c2410c; --mark: #1d63c4; --good: #17713a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --paper: #14171a;
  --line: #343b43; --cell: #22272d; --hot: #fb923c; --mark: #7ab0ff; --good: #5fd38d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 74rem; padding: 0 1rem; } p, ul { max-width: 62rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--cell); padding: .7rem .9rem;
  font-size: .82rem; } code { overflow-wrap: anywhere; }
blockquote { border-left: .3rem solid var(--hot); padding: .1rem .9rem; margin: 1rem 0;
  background: var(--cell); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .2rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line); } td:first-child, th:first-child { text-align: left; }
.wide td { white-space: nowrap; } .wide svg { min-width: 36rem; }
svg { display: block; max-width: 100%; height: auto; }
"""


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """Put a page together.

    Parameters
    ----------
    title : str
        Plain text.
    body : iterable of str
        Lines of HTML.
    style : str
        Rules beside those that every page has.
    """
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>"
    )
    return "\n".join([head, *body, "</body></html>"]) + "\n"


def write_html(lines: Iterable[str], pictures: Mapping[str, str], path: Path) -> Path:
    """Write a Markdown report as one page of HTML, with its pictures in it.

    Parameters
    ----------
    lines : iterable of str
        The report.
    pictures : mapping
        SVG by the file name that the report shows it under.
    path : Path
    """
    from markdown_it import MarkdownIt

    text = "\n".join(lines)
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), path.stem)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r"<table>", '<div class="wide"><table>', body).replace("</table>", "</table></div>")
    body = re.sub(r'<p><img src="([^"]*)" alt="([^"]*)" ?/?></p>', lambda m: _picture(m, pictures), body)
    return write_text(document(title, [body]), path)


def _picture(found: re.Match[str], pictures: Mapping[str, str]) -> str:
    svg = pictures[html.unescape(found[1])]
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{found[2]}" ', 1)
    return f'<div class="wide">{named}</div>'
