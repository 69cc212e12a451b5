"""One spelling for one answer: the notation of LaTeX, Unicode, markdown and program output made uniform.

Enters: an answer as somebody wrote it. Leaves: one line in which only meaning is left: LaTeX commands for
mathematics, plain words, `⟦words⟧` for what stood in `\\text{}`. It removes no unit, reads no number and compares
nothing.
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∞": r"\infty ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ",
    "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ", "Δ": r"\Delta ", "°": "°", "º": "°", "′": "'", "’": "'",
    "ℝ": r"\mathbb{R}", "⟨": r"\langle ", "⟩": r"\rangle ", "“": '"', "”": '"', "，": ",", "。": ".", "：": ":",
    "（": "(", "）": ")", "％": "%", "　": " ", "…": r"\ldots ",
}  # fmt: skip
_UNICODE_TABLE = {ord(character): replacement for character, replacement in _UNICODE.items()}

_WRITTEN_AS_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|bm"
    r"|boldsymbol|operatorname\*?|rm|bf|emph|underline|mathcal)\s*\{([^{}]*)\}"
)
_SPACING = re.compile(
    r"(?<!\\)\\[,;:>! ]|\\q?quad|\\(?:thinspace|displaystyle|textstyle|limits|nonumber|hfill)(?![A-Za-z])|~"
)
_SIZING = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\.?"
)
_PHANTOM = re.compile(r"\\(?:phantom|hspace|vspace|label|tag)\*?\{[^{}]*\}")
_DIGIT_GROUPS = re.compile(
    r"(?<=\d)(?:,\s*\\!|\s*\{\s*,\s*\}|\\,|\\;|\\!|~|[\u2009\u202f\u00a0])\s*(?=\d{3}(?!\d))"
)
_RENAMED = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\(?:neq|not=)(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:l|r)?[vV]ert(?![A-Za-z])|\\mid(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:simeq|thickapprox|doteq)(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\\mathbb\s*R|\\(?:reals|Reals|R)(?![A-Za-z])"), r"\\mathbb{R}"),
    (
        re.compile(r"\^\s*(?:\{\s*)?(?:\\circ|\\degree|°)(?:\s*\})?|\\degree(?![A-Za-z])|\\circ(?![A-Za-z])"),
        "°",
    ),
]
_MATH_DELIMITERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("`", "`"),
)


def clean_notation(answer: str) -> str:
    """The answer in one notation. Idempotent enough to compare; never longer than a few times its input."""
    text = _spell_unicode(answer).strip()
    text = _strip_wrappers(text)
    text = _DIGIT_GROUPS.sub("", text)
    if r"\\begin" in text:  # every backslash was escaped once too often
        text = text.replace("\\\\", "\\")
    elif r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    text = (
        text.replace(r"\%", "%")
        .replace(r"\$", "￥")
        .replace(r"\&", "&")
        .replace(r"\#", "#")
        .replace(r"\_", "_")
    )
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    text = _PHANTOM.sub("", text)
    text = _SIZING.sub(" ", text)
    text = _SPACING.sub(" ", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    text = _unwrap_text(text)
    text = text.replace("￥", "$")
    return _strip_wrappers(" ".join(text.split()))


def _spell_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+)", lambda m: "^{" + m[1].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"([₀₁₂₃₄₅₆₇₈₉ₙ]+)", lambda m: "_{" + m[1].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"√\s*(\([^()]*\)|\d+|[A-Za-z])", lambda m: r"\sqrt{" + m[1].strip("()") + "}", text)
    text = re.sub(r"[¼-¾⅐-⅞]", _spell_fraction, text)
    return unicodedata.normalize("NFKC", text.translate(_UNICODE_TABLE))


def _spell_fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _strip_wrappers(text: str) -> str:
    """Without the delimiters, emphasis and full stop around the whole."""
    before = None
    while before != text:
        before = text
        text = text.strip().removesuffix("\\").rstrip(",;:").strip()
        text = _strip_full_stop(text)
        for opener, closer in _MATH_DELIMITERS:
            inner = text[len(opener) : len(text) - len(closer)]
            is_wrapped = (
                text.startswith(opener) and text.endswith(closer) and len(text) > len(opener) + len(closer)
            )
            if is_wrapped and opener not in inner and closer not in inner and not inner.endswith("\\"):
                text = inner
    return text


def _strip_full_stop(text: str) -> str:
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _unwrap_text(text: str) -> str:
    """Words keep their marks, so that a unit or a name is told from a product of variables."""
    for _ in range(8):
        unwrapped = _WRITTEN_AS_TEXT.sub(_mark_words, text)
        if unwrapped == text:
            break
        text = unwrapped
    return text


def _mark_words(match: re.Match[str]) -> str:
    content = match[1].strip()
    follows_number = match.string[: match.start()].rstrip()[-1:] in "0123456789}" and content.islower()
    if follows_number and content:
        return f" ⟦{content}⟧ "
    if len(content) > 1 and re.search(r"[A-Za-z]{2}", content) and content not in ("ln", "log", "pi"):
        return f" ⟦{content.replace('⟦', '').replace('⟧', '')}⟧ "
    return f" {content} " if content[:1].isalpha() else content
