"""The fields of a ``config.json``, read with all complaints collected and told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LARGEST_SIZE = 100_000_000
"""Largest width or count; published ones have at most a few hundred thousand."""


class Fields:
    """The fields of a config; complaints are collected, so that all of them are told at once."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        self.missing: list[str] = []
        self.wrong: list[str] = []

    def given(self, name: str) -> Any:
        """Return a field's value; None if it is null or absent."""
        return self.found.get(name)

    def count(self, *names: str, least: int = 1, default: int | None = None) -> int:
        """Return a size under the first of `names` that is there; 1 and a complaint where there is none."""
        name = next((n for n in names if self.given(n) is not None), names[0])
        value = self.given(name)
        if value is None and default is not None:
            return default
        if value is None:
            self._note(self.missing, " or ".join(names))
        elif type(value) is not int or not least <= value <= LARGEST_SIZE:
            self._note(
                self.wrong, f"{name}: found {value!r}, expected an integer of {least} to {LARGEST_SIZE}"
            )
        else:
            return value
        return max(least, 1)

    def optional(self, name: str) -> int | None:
        """Return a size, or None where it is null or absent."""
        return None if self.given(name) is None else self.count(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.given(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._note(self.wrong, f"{name}: found {value!r}, expected true or false")
        return bool(value)

    def row(self, name: str, length: int, kind: type) -> list[Any] | None:
        """Return a list with a value for each of at least `length` layers, or None."""
        value = self.given(name)
        if value is None:
            return None
        good = isinstance(value, list) and len(value) >= length and all(type(v) is kind for v in value)
        if not good:
            self._note(self.wrong, f"{name}: found {value!r:.60}, expected {length} values ({kind.__name__})")
            return None
        return list(value)

    def refuse(self, message: str) -> None:
        """Complain in own words."""
        self._note(self.wrong, message)

    @staticmethod
    def _note(notes: list[str], text: str) -> None:
        if text not in notes:
            notes.append(text)

    def check(self) -> None:
        """Raise ValueError if there were complaints."""
        missing = [f"missing fields: {', '.join(self.missing)}"] if self.missing else []
        if missing or self.wrong:
            raise ValueError("config: " + "; ".join([*missing, *self.wrong]))
