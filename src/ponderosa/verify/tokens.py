"""Tokens of a mathematical expression: numbers, commands, names and signs."""

import re


class NotMath(ValueError):
    """The text is not an expression this package understands."""


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<command>\\[A-Za-z]+)"
    r"|(?P<word>[A-Za-z]+)|(?P<operator>\*\*|[-+*/^_!()\[\]{}|°,]))"
)
GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
).split()
CONSTANT_NAMES = {
    "pi": "pi",
    "e": "e",
    "i": "i",
    "infty": "infinity",
    "infinity": "infinity",
    "inf": "infinity",
}
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth ln log exp lg sqrt cbrt abs floor "
    "ceil".split()
)
_ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "csch": "csch",
    "sech": "sech",
    "ceiling": "ceil",
}


_WORDS = frozenset(
    "no on yes odd not of is it if all any one two six ten red day may sun mon tue wed thu fri".split()
)


def tokenize(text: str) -> list[str]:
    tokens: list[str] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotMath(f"unexpected {text[position]!r}")
        if match["word"]:
            tokens += _split_word(match["word"])
        else:
            tokens.append(match.group().strip())
        position = match.end()
    return tokens


def _split_word(word: str) -> list[str]:
    """A known name stays whole; up to three lower-case letters are a product; capitals name one thing."""
    word = _ALIASES.get(word, word)
    if word in FUNCTIONS or word in CONSTANT_NAMES or word in GREEK:
        return [word]
    for name in ("sqrt", "pi", "sin", "cos", "tan", "ln", "log"):
        head, found, tail = word.partition(name)
        if found and len(head) <= 2 and len(tail) <= 2:
            return [*head, name, *tail]
    if word.isupper() and len(word) <= 4:
        return [word]
    if len(word) <= 3 and word.lower() not in _WORDS:
        return list(word)
    raise NotMath(f"{word!r} is a word")
