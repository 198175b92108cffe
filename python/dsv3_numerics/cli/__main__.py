"""``python -m dsv3_numerics.cli``: the command without its script."""

from . import main

main()
