"""Write recipes.json: digests of single operations under the presets, each checked by the textbook first.

Run as ``python tests/golden/make_recipes.py`` after an intended change; it refuses to write what the textbook
does not confirm: to the bit, or for float32 sums of numbers to a bfloat16 place in one of a hundred.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from steps import Steps, nearly

TARGET = Path(__file__).with_name("recipes.json")


def main() -> None:
    """Check, then write."""
    digests = {}
    for name, step in Steps():
        found, expected = step.run(), step.textbook()
        same = np.array_equal(found.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))
        if not (same if step.exact else nearly(found, expected)):
            raise SystemExit(f"{name}: not what the textbook says; nothing written")
        digests[name] = hashlib.sha256(found.tobytes()).hexdigest()
    TARGET.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    print(f"{len(digests)} operations, {TARGET}")


if __name__ == "__main__":
    main()
