"""Values of settings as typed, in Hydra's grammar: texts, numbers, lists and mappings.

Interpolations, functions and sweeps are not understood, and are left to Hydra.
"""

from __future__ import annotations

import re
from typing import Any


class NeedsHydraError(Exception):
    """What only Hydra understands."""


_SIGNS = r"[\w./@%+*?|$-]+"
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<sign>[\[\]{},])|"""
    rf"(?P<bare>{_SIGNS}(?:(?: +|:){_SIGNS})*))\s*",
    re.ASCII | re.DOTALL,
)
_KEY = re.compile(rf"\s*(?P<key>{_SIGNS})\s*:", re.ASCII)
_WHOLE = re.compile(r"[+-]?(0|[1-9](_?\d)*)")
_NUMBER = re.compile(
    r"[+-]?(((0|[1-9](_?\d)*)?\.\d(_?\d)*|(0|[1-9](_?\d)*)\.)(e[+-]?\d(_?\d)*)?"
    r"|(0|[1-9](_?\d)*)e[+-]?\d(_?\d)*|inf|nan)",
    re.IGNORECASE,
)


def parsed(text: str) -> Any:
    """The value that is written behind ``KEY=``.

    Raises:
        NeedsHydraError: It is not a plain value.
    """
    if not text:
        return ""
    if "${" in text or text != text.strip():
        raise NeedsHydraError(text)
    reader = _Reader(text)
    value = reader.value()
    if reader.place != len(text):
        raise NeedsHydraError(text)
    return value


class _Reader:
    """Reads one value from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def value(self) -> Any:
        """The value that begins here."""
        token = self._token()
        if token["quoted"]:
            return _unquoted(token["quoted"])
        if token["bare"]:
            return primitive(token["bare"])
        if token["sign"] == "[":
            return self._list()
        if token["sign"] == "{":
            return self._mapping()
        raise NeedsHydraError(self.text)

    def _token(self) -> re.Match[str]:
        token = _TOKEN.match(self.text, self.place)
        if token is None:
            raise NeedsHydraError(self.text)
        self.place = token.end()
        return token

    def _closed(self, end: str) -> bool:
        """Whether the collection ends here; otherwise a comma must follow."""
        sign = self._token()["sign"]
        if sign not in (end, ","):
            raise NeedsHydraError(self.text)
        return sign == end

    def _is_empty(self, end: str) -> bool:
        if self.text[self.place : self.place + 1] != end:
            return False
        self._token()
        return True

    def _list(self) -> list[Any]:
        values: list[Any] = []
        if self._is_empty("]"):
            return values
        while True:
            values.append(self.value())
            if self._closed("]"):
                return values

    def _mapping(self) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        if self._is_empty("}"):
            return values
        while True:
            key = _KEY.match(self.text, self.place)
            if key is None:
                raise NeedsHydraError(self.text)
            self.place = key.end()
            values[primitive(key["key"])] = self.value()
            if self._closed("}"):
                return values


def primitive(word: str) -> Any:
    """A word without quotes: null, a truth value, a number, or a text."""
    lower = word.lower()
    if lower == "null":
        return None
    if lower in ("true", "false"):
        return lower == "true"
    if _WHOLE.fullmatch(word):
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    if word == "???":
        raise NeedsHydraError(word)
    return word


def _unquoted(text: str) -> str:
    """The text between quotes. Backslashes count only in front of a quote, and at the end."""
    mark, inner = text[0], text[1:-1]
    if inner == "???":
        raise NeedsHydraError(text)
    inner = re.sub(rf"(\\+){mark}", lambda match: "\\" * (len(match[1]) // 2) + mark, inner)
    return re.sub(r"(\\+)\Z", lambda match: "\\" * (len(match[1]) // 2), inner)
