"""Units: what follows (or, for currency, precedes) an amount, and when two spellings name the same one.

A bare unit needs a space before it: in `10cm` and `10m` the letters may be variables. Words marked as text (`⟦cm⟧`)
and the names and abbreviations below are units; one plain letter never is.
"""

import re

_SYNONYMS = {
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre", "m": "meter metre",
    "kg": "kilogram kilo", "g": "gram", "mg": "milligram", "l": "liter litre", "ml": "milliliter millilitre",
    "ft": "foot feet", "in": "inch inches", "yd": "yard", "mi": "mile", "lb": "pound lbs", "oz": "ounce",
    "s": "sec second", "min": "minute", "h": "hour hr", "day": "day", "week": "week", "month": "month",
    "year": "year yr", "mph": "", "km/h": "kph kmh", "m/s": "", "dollar": "usd buck", "cent": "", "euro": "eur", "gbp": "",
    "unit": "", "degree": "deg", "sq": "square", "cu": "cubic", "gallon": "gal", "acre": "", "rad": "radian",
    "hz": "hertz", "j": "joule", "n": "newton", "w": "watt", "v": "volt", "k": "kelvin", "pa": "pascal", "mol": "mole",
    "coin": "", "point": "", "people": "person",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _SYNONYMS.items() for word in (unit, *words.split())}
_BARE_SYMBOLS = "cm mm km kg mg ml mL ft yd lb lbs oz sec secs min mins hr hrs hz Hz mph kph mol".split()

_CURRENCY = {
    "$": "dollar",
    "€": "euro",
    "£": "gbp",
    "¥": "yen",
    "₹": "rupee",
    r"\pounds": "gbp",
    r"\euro": "euro",
}
_PREFIX = re.compile(r"(-?)\s*(\$|€|£|¥|₹|\\pounds|\\euro)\s*(?=[-\d.\\(])")
_POWER = r"(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
_MARKED = re.compile(rf"(?:\s*(?:/\s*)?⟦[^⟦⟧]*⟧{_POWER}(?:\s*/\s*[A-Za-z]+{_POWER})?)+$")
_BARE = re.compile(
    rf"(?<=[\d)}}!])\s+(?:(?:{'|'.join(_BARE_SYMBOLS)}){_POWER}(?:\s*/\s*[A-Za-z]+{_POWER})?"
    rf"|[A-Za-z][A-Za-z-]{{2,}}(?:\s+(?:per\s+)?[A-Za-z][A-Za-z-]+){{0,3}}{_POWER})$"
)
_LONG = re.compile(
    r"(?<=\d)(?:weeks?|days?|hours?|minutes?|seconds?|years?|months?|dollars?|degrees?|meters?|units?)$"
)
_SUFFIX_SYMBOL = re.compile(r"\s*(°\s*[CF]?|\$|€|£|¥|₹|\\pounds|\\euro|m\^\{?[23]\}?)$")
_PERCENT = re.compile(r"\s*(?:%|⟦?\s*\b(?:percent|per cent|percentage|pct)\b\s*⟧?)$", re.IGNORECASE)
_SCALE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"\s*⟦?\s*\b({'|'.join(_SCALE)})\b\s*(?=⟦|⟧|$|[a-z])\s*⟧?", re.IGNORECASE)
_NOT_UNITS = frozenset(
    "and or not if for when mod modulo plus minus times over to from than is are was the base choose half halves third "
    "thirds quarter quarters fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths squared cubed dozen pi "
    "sqrt sin cos tan log ln exp infinity inf theta alpha beta isn but with where".split()
)


def split_unit(text: str) -> tuple[str, str, bool]:
    """The amount, its unit in canonical spelling ("" if none), and whether it is a percentage."""
    amount, unit = text, ""
    if prefix := _PREFIX.match(amount):
        amount, unit = prefix[1] + amount[prefix.end() :], _CURRENCY[prefix[2]]
    if percent := _PERCENT.search(amount):
        return amount[: percent.start()], "", True
    for pattern in (_MARKED, _BARE, _LONG, _SUFFIX_SYMBOL):
        found = pattern.search(amount)
        if found and found.start() and _names_unit(found[0]):
            scaled = _SCALED.match(found[0])
            scale = rf"\times 10^{{{_SCALE[scaled[1].lower()]}}}" if scaled else ""
            rest = found[0][scaled.end() :] if scaled else found[0]
            return amount[: found.start()] + scale, canonical_unit(rest) or unit, False
    return amount, unit, False


def _names_unit(text: str) -> bool:
    words = re.findall(r"[A-Za-z]+", text)
    return not any(word.lower() in _NOT_UNITS for word in words)


def canonical_unit(text: str) -> str:
    """One spelling per unit: `⟦square centimeters⟧`, `cm^2` and `⟦cm⟧^{2}` agree."""
    for symbol, name in _CURRENCY.items():
        text = text.replace(symbol, name)
    text = re.sub(r"[⟦⟧{}\s]+", " ", text.replace("°", "degree")).strip().lower().rstrip(".")
    words = [_singular(word) for word in re.findall(r"[a-z]+|\^ ?-?\d|/", text.replace("per ", "/"))]
    if words[:1] == ["sq"]:
        words = [*words[1:], "^2"]
    if words[:1] == ["cu"]:
        words = [*words[1:], "^3"]
    return " ".join(word.replace(" ", "") for word in words if word not in ("unit", "of"))


def _singular(word: str) -> str:
    for candidate in (word, word.removesuffix("s"), word.removesuffix("es")):
        if candidate in _CANONICAL:
            return _CANONICAL[candidate]
    return word.removesuffix("s")
