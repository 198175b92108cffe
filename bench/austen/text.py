"""Jane Austen's six novels, out of Debian's package ``r-cran-janeaustenr``.

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb janeaustenr
    python text.py janeaustenr novels.json

The words are in the public domain; the package (MIT licence) holds Project Gutenberg's transcriptions, one R
vector of lines for each novel. Needs PyPI ``rdata``, which reads R's files.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import rdata

HELD_OUT = "persuasion"
_DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata"


def novels(folder: Path) -> dict[str, str]:
    """Read the novels of an unpacked package: lines joined by newlines, by name."""
    where = rdata.read_rds(folder / f"{_DATA}.rdx")["variables"]
    packed = (folder / f"{_DATA}.rdb").read_bytes()
    found = {}
    for name, (offset, length) in where.items():
        record = packed[offset : offset + length]  # four bytes of length, then zlib
        value = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(record[4:])))
        text = "\n".join(value)
        if len(text) > 100_000:  # the table of all lines is not a novel
            found[name] = text
    return found


def split(novels: dict[str, str]) -> tuple[bytes, bytes]:
    """The bytes to train on, five novels, and the held-out sixth."""
    training = "\n\n".join(novels[name] for name in sorted(novels) if name != HELD_OUT)
    return training.encode(), novels[HELD_OUT].encode()


if __name__ == "__main__":
    found = novels(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found))
    for name, text in sorted(found.items()):
        print(f"{name}: {len(text.encode())} bytes")
