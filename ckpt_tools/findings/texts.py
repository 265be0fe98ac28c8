"""Text from outside (names of files, keys, values, messages of the system) made fit for a terminal and for JSON."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["LONGEST_MESSAGE", "as_text", "as_typed", "escape", "plain_json", "unprintable", "writable"]

LONGEST_INTEGER = 1000  # bits: less than the largest float has
LONGEST_TEXT = 400  # characters of a name or message from a file that reach a report
LONGEST_MESSAGE = 32_768  # characters of a line with paths and commands in it; several times the longest path there is

# Nothing is seen of these either, though they count as letters, marks or symbols: what is left of the Unicode
# standard's Default_Ignorable_Code_Point beside the categories `isprintable` knows, and the empty Braille pattern.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


def unprintable(text: str) -> bool:
    """Whether a text has characters that are not seen, or not seen for what they are.

    Those are control and format characters (bidirectional ones too), spaces other than the plain one, line separators,
    surrogates (bytes of a file name that are no UTF-8), private and unassigned characters, and variation selectors.
    """
    return not text.isprintable() or UNSEEN.search(text) is not None


def as_typed(text: str) -> str:
    """A text with every character that is not seen as Python's source has it: ``\\x1b``, ``\\u202e``, ``\\udcff``."""
    if not unprintable(text):
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii") if unprintable(character) else character
        for character in text
    )


def escape(value: object, longest: int = LONGEST_TEXT) -> str:
    """Text from a file or the file system made safe for a terminal: what is not seen is escaped, length bounded."""
    text = as_text(value)
    return as_typed(text if len(text) <= longest else text[: longest - 1] + "…")


def writable(value: object) -> object:
    """The value itself, or words for an integer so long that Python refuses to write it in decimal."""
    if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        return f"<integer of {value.bit_length()} bits>"
    return value


def as_text(value: object) -> str:
    """A key or number from a file as text; words for what is too long or too deep to be written."""
    try:
        return value if isinstance(value, str) else str(writable(value))
    except (ValueError, RecursionError):  # a tuple with such an integer in it, or of tuples in tuples
        return f"<{type(value).__name__}>"


def plain_json(value: Any) -> Any:
    """The same value without what JSON can't hold: NaN and infinity become text, lone surrogates ``\\udcNN``.

    In the name of a file ``\\udcNN`` stands for the byte NN, which is no UTF-8 there.
    """
    if isinstance(value, dict):
        return {_encodable(as_text(key)): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _encodable(value) if isinstance(value, str) else writable(value)


def _encodable(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text if text.isascii() else str(text).encode("utf-8", "backslashreplace").decode("utf-8")
