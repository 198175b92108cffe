"""The trained model that comes with the package: ``tiny-austen``, to try everything on.

Lives here: where it is, and the held-out text that it is judged by. How it was trained: ``bench/austen`` of
the repository; how good it is: ``docs/austen.md``.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "tiny_austen"


def demo_checkpoint() -> Path:
    """Folder of ``tiny-austen``, a DeepSeek-V3 of 4.4 million parameters trained on five of Austen's novels.

    An FP8 checkpoint in the release's format: 128 x 128 blocks with float32 scales; embedding, head, norms
    and gates in bfloat16. Its tokens are bytes, and it was trained on sequences of up to 512.

    Examples
    --------
    >>> from dsv3_numerics.model import ByteTokenizer, Model, demo_checkpoint
    >>> model = Model.from_checkpoint(demo_checkpoint())
    >>> tokenizer = ByteTokenizer.from_file(demo_checkpoint() / "tokenizer.json")
    >>> done = model.generate(tokenizer.encode("I am sure you canno"), max_new_tokens=1)
    >>> tokenizer.decode(done.tokens)
    't'
    """
    return _FOLDER


def demo_text() -> str:
    """Beginning of *Persuasion*, the novel that ``tiny-austen`` was not trained on.

    Public domain; as Project Gutenberg has it, 32 kB.

    Examples
    --------
    >>> from dsv3_numerics.model import demo_text
    >>> "Sir Walter Elliot, of Kellynch Hall" in demo_text()
    True
    """
    return (_FOLDER / "held_out.txt").read_text(encoding="utf-8")
