"""Where is the answer? From a whole solution, or a bare answer, to the text of the final answer.

The first of these that is present decides (docs/grading.md):
1. after the last `</think>`; inside the last `<answer>` tag;
2. the last closed `\\boxed{}` or `\\fbox{}` (several side by side are one list), unless "final answer:" follows it;
   an unclosed box is no answer;
3. after the last `####` or `A:` line, as GSM8K writes them;
4. after the last "the answer is" or "final answer:";
5. the whole text, when it is short enough to be an answer and reads as one;
6. the last displayed or inline formula of the last line that has one, else the last number.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ponderosa.records import Step
from ponderosa.verify.forms import Items, Words
from ponderosa.verify.notation import clean_notation
from ponderosa.verify.reading import choice_letter, read_form

_TAIL_CHARS = 20_000
_BARE_CHARS = 200
_LAST_BOXES = 100
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;.&]|\\q?quad|\\[()\[\],;! ])*(?:\\text\{)?\s*(?:and|or)?\s*\}?(?:[\s$,;&]|\\q?quad|\\[()\[\],;! ])*"
    r"(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?"
)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"####\s*([^\n]+)")
_A_LINE = re.compile(r"^\s*(?:A|ANSWER)\s*:\s*(\S[^\n]*)", re.MULTILINE)
_PHRASE = re.compile(
    r"(?:final\s+answer|(?:the|my|our|correct|so|is)?\s*\banswer|answers|correct\s+(?:option|choice))"
    r"(?:\*\*|\s)*(?:\([^()\n]{0,40}\)|to [^\n.:]{0,60}?|for (?!sure)[^\n.:]{0,60}?)?(?:\*\*|\s)*"
    r"(?::|=|\bis\b|\bare\b|\bwould be\b|\bmust be\b)(?:\*\*|\s)*(?::)?\s*(?:indeed |therefore |thus |simply |just |for sure )?",
    re.IGNORECASE,
)
_OTHER_PHRASE = re.compile(
    r"(?:答案(?:是|为|为：|：|:)|réponse(?: est| :|:)|respuesta(?: es|:))\s*", re.IGNORECASE
)
_FINAL = re.compile(r"\bfinal answer(?:\*\*|\s)*(?::|is\b)(?!\s*\$?\s*\\boxed)", re.IGNORECASE)
_NO_FORMULA = r"(?!\s*(?:[+/=^]|\*\s*\w))"
_LETTER = rf"\**(?:([A-HJ])\b|(I)\b(?!['’]|\s+(?!is\b)[a-z])){_NO_FORMULA}"
"""A choice where one is expected: before small letters or an apostrophe, "I" is the pronoun."""
_FIRST_CHOICE = re.compile(
    rf"(?:\(\**([A-J])\**\)|{_LETTER})\**(?=[\s.,:;)*]|$){_NO_FORMULA}"
    r"(?!\s*(?:,\s*(?:and|or)?|and|or|&)\s*\(?[A-HJ]\b(?!\s+is\b))"
)
_CHOICES = (
    re.compile(r"(?<![\w)\]])[(\[]\**([A-J])\**[)\]]"),
    re.compile(rf"\b(?i:option|choice|choose|chose|pick|select)s?:?\s+{_LETTER}"),
    re.compile(r"(?<!\w)([A-J])\s+is\s+(?:correct|the\s+(?:correct|right|best|only))\b"),
    re.compile(r"^[ \t*]*([A-J])[ \t*]*[.):]?[ \t*]*$", re.MULTILINE),
    re.compile(r"\A\**([A-J])\**[.):]\**(?=\s)"),
    re.compile(r"(?<=\s)\**([A-HJ])\**[.!]?\**\s*\Z"),
)
"""Where a letter in prose is a choice: (B), option B, B is correct, alone on its line, first as "B.", last of all."""
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\(([^\n]+?)\\\)|(?<![\\\d])\$([^$\n]+?)(?<!\\)\$(?!\d)", re.DOTALL
)
_QUALIFIED = re.compile(
    r"\s+(?:(?:half|halves|dozen|(?:third|quarter|fourth|fifth|sixth|eighth|tenth|hundredth)s?)\b"
    r"|(?:is|are|was|were)\s+(?:wrong|incorrect|too|not|impossible)\b)",
    re.IGNORECASE,
)
_BROKEN_GROUP = re.compile(r"\{([^{}\n]*)\n([^{}\n]*)\}")
_BROKEN_INLINE = re.compile(r"(?<!\$)\$[ \t]*\n[^$]*\n[ \t]*\$(?!\$)")
_NUMBER = re.compile(
    r"(?<![\w.^])(?<!\d[,.])(?<![A-Za-z]\()-?\s?[$€£]?\s?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+,\d+|\d+)(?:\.\d+)?(?:\s*/\s*\d+| \d+/\d+)?"
    r"(?:\s?(?:%|percent|pct)|[eE][+-]?\d+)?|(?<![\w.])-?\.\d+"
)
_DENIED = re.compile(
    r"(?:\bnot|n't|n’t|never|rather than|instead of|other than)\s+(?:be\s+|equal\s+(?:to\s+)?)?[$(]*$"
)


def extract_answer(text: str) -> str | None:
    """The final answer of a solution, or of a text that is nothing but an answer; None if there is none."""
    text = _BROKEN_GROUP.sub(r"{\1 \2}", text.rpartition("</think>")[2]).strip()
    if tagged := _TAGGED.findall(text):
        text = tagged[-1].strip()
    if boxes := list(_BOX.finditer(text)):
        finals = list(_FINAL.finditer(text, boxes[-1].end()))
        return _last_box(text) if not finals else _after_phrase(text[finals[-1].start() :])
    text = text[-_TAIL_CHARS:]
    for pattern in (_HASHES, _A_LINE):
        if found := pattern.findall(text):
            return _trim(found[-1]) or None
    if phrased := _after_phrase(text):
        return phrased
    if not re.search(r"\\begin|\\\[|\$", text):
        text = _last_line(text)
    if not text or is_bare(text):
        return text or None
    return _last_stated(text)


def extract_gold(text: str) -> str | None:
    """The gold answer: as given, unless it is a worked solution that marks its answer."""
    if _BOX.search(text):
        return _last_box(text)
    if found := _HASHES.findall(text):
        return _trim(found[-1]) or None
    if len(text) > _BARE_CHARS or _PHRASE.search(text):
        return extract_answer(text)
    return text.strip() or None


def answer_from_attempt(text: str, steps: Sequence[Step]) -> str | None:
    """The answer of an attempt: for code what its last printing step printed last, for prose what the text says.

    A box in prose behind that step stands above what it printed: it is what the solution says in the end.
    """
    for step in reversed(steps):
        if step.code is None:
            if _BOX.search(step.text) and (boxed := _last_box(step.text)) is not None:
                return boxed
        elif step.outcome == "ok" and step.observation and step.observation.strip():
            printed = step.observation.strip().splitlines()[-1].strip()
            return extract_answer(printed)
    return None if any(step.code is not None for step in steps) else extract_answer(text)


def _last_box(text: str) -> str | None:
    """The content of the last closed box; boxes with nothing but punctuation between them are one list."""
    boxes = _closed_boxes(text)
    if not boxes:
        return None
    parts = [boxes[-1].content]
    for earlier, later in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        between = text[earlier.end : later.start]
        if "\n\n" in between or not _BETWEEN_BOXES.fullmatch(between):
            break
        parts.insert(0, earlier.content)
    return " and ".join(parts) if len(set(parts)) > 1 else parts[0]


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def _closed_boxes(text: str) -> list[_Box]:
    """The outermost of the last boxes that are closed and not empty."""
    closing = _closing_braces(text)
    boxes: list[_Box] = []
    for match in list(_BOX.finditer(text))[-_LAST_BOXES:]:
        start, inner = match.start(), match.end()
        if match[0].endswith("{"):
            end = closing.get(inner - 1, inner)
            content, end = text[inner:end].strip(), end + 1
        else:
            word = re.match(r"[^\s$.,;}]+", text[inner : inner + _BARE_CHARS])
            content, end = (word[0], inner + word.end()) if word else ("", inner)
        if content and not (boxes and start < boxes[-1].end):
            boxes.append(_Box(start, end, content))
    return boxes


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace is closed; escaped braces are text. One pass, so that no text takes long."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\[{}\\]|[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _after_phrase(text: str) -> str | None:
    matches = [*_PHRASE.finditer(text), *_OTHER_PHRASE.finditer(text)]
    if not matches:
        return None
    rest = text[max(match.end() for match in matches) :].strip()
    if re.match(r"(?:not|n't)\b", rest):
        return None
    rest = _first_statement(rest)
    if letter := _FIRST_CHOICE.match(rest):
        return _first_group(letter)
    if not rest:
        return None
    if is_bare(rest):
        return rest
    return _last_stated(rest) or rest


def _first_statement(text: str) -> str:
    """Up to the end of the first sentence: a full stop before space or end, or a line end outside a formula."""
    text = text.strip()
    if match := re.match(r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\$[^$\n]+\$", text, re.DOTALL):
        following = text[match.end() :]
        return _trim(match[0] + (re.match(r"[^\n.]*", following) or [""])[0])
    first_line = text.split("\n", 1)[0]
    return _trim(re.split(r"\.(?:\s|$)", first_line, maxsplit=1)[0])


def _last_line(text: str) -> str:
    """The last line if it reads as an answer alone, as programs print it; else the whole text."""
    last = text.rstrip().rpartition("\n")[2].strip()
    return last if last != text and is_bare(last) else text


def _trim(text: str) -> str:
    return (
        text.strip()
        .strip("*")
        .strip()
        .removesuffix(".")
        .strip()
        .removeprefix('\\"')
        .removesuffix('\\"')
        .strip('"')
    )


def is_bare(text: str) -> bool:
    """Does the whole text read as an answer and nothing else?"""
    if len(text) > _BARE_CHARS or "\n" in text.strip():
        return len(text.split()) == 1 or r"\begin" in text[:20]
    if choice_letter(text) and len(text.split()) <= 4:
        return True
    if _introduces(text):
        return False
    form = read_form(text)
    if isinstance(form, Words):
        return _is_phrase(text)
    if isinstance(form, Items) and not form.opening:
        return all(not isinstance(item, Words) or _is_phrase(item.text) for item in form.items)
    return True


def _introduces(text: str) -> bool:
    """Words stand before the first formula: the formula is what they introduce."""
    match = _FORMULA.search(text)
    return match is not None and re.search(r"[^\W\d_]{2,}", text[: match.start()]) is not None


def _is_phrase(text: str) -> bool:
    """A few words without a number among them, or mathematics that nobody here can read."""
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", "", clean_notation(text)))
    return len(words) <= 3 and ("\\" in text or not words or not _NUMBER.search(text))


def _last_stated(text: str) -> str | None:
    """The last formula or number that is neither denied ("not 42", "42 is wrong") nor a count of parts; else a letter."""
    text = _BROKEN_INLINE.sub(" ", text)
    formulas = [
        (match.start(), match.end(), _first_group(match).strip()) for match in _FORMULA.finditer(text)
    ]
    numbers = [(match.start(), match.end(), match[0].strip()) for match in _NUMBER.finditer(text)]
    outside = [n for n in numbers if not any(f[0] <= n[0] and n[1] <= f[1] for f in formulas)]
    for start, end, stated in sorted([*formulas, *outside], reverse=True):
        if not _DENIED.search(text[:start][-40:]) and not _QUALIFIED.match(text, end):
            return stated
    return _last_choice(text)


def _last_choice(text: str) -> str | None:
    """The last letter that stands as a choice and is not denied."""
    choices = [(m.start(), _first_group(m)) for pattern in _CHOICES for m in pattern.finditer(text)]
    for start, letter in sorted(choices, reverse=True):
        if not _DENIED.search(text[max(0, start - 40) : start]):
            return letter
    return None


def _first_group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group)
