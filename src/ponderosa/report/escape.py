"""Making text a model wrote safe to look at.

Such text may hold terminal escapes, bidirectional overrides, zero-width characters or lone surrogates, by accident
or to mislead its reader. Each is shown as what it is (⟨U+001B⟩, ⟨U+202E⟩) and never acted on. Newlines and tabs stay.
"""

import re
import unicodedata
from functools import lru_cache
from html import escape

_KEPT = "\n\t"
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")


def show_controls(text: str) -> str:
    """The text with every control, format, separator and surrogate character replaced by a visible name."""
    return _SUSPECT.sub(lambda match: _name_character(match[0]), text)


def escape_html(text: str) -> str:
    """Text for an HTML element or a double-quoted attribute; hidden characters become visible."""
    return escape(show_controls(text), quote=True)


@lru_cache(maxsize=4096)
def _name_character(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    return f"⟨U+{ord(character):04X}⟩"
