"""``python -m dsv3_numerics``: the command ``dsv3-numerics``."""

from .cli import main

if __name__ == "__main__":
    main()
