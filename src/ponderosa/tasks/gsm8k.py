"""GSM8K's training rationales as code-augmented steps, and as prose.

A rationale line "Natalia sold 48/2 = <<48/2=24>>24 clips in May." becomes

    # Natalia sold b clips in May.
    b = 48 / 2

and a later "48+24 = <<48+24=72>>72 clips altogether" becomes `c = 48 + b`, the last step printing the answer. The
choices, made for models of a few million parameters:

- Results are named b, c, d ... in order (a and i are English words). A name is one token, the next one is known
  beforehand, and no reference can be misspelled; what a name stands for is said by the comment around it. Names
  made from words repeat themselves (clips, clips_2, total_clips) and are several tokens each to copy.
- A comment holds no computed number: the model would have to calculate it before the interpreter does. Where the
  rationale says a result, the comment says its name; numbers given in the question stay.
- A literal is replaced by a name when it is traced to an earlier result; the program then is the reasoning.

Nothing is executed here: a stage runs every solution and keeps those that print the gold answer.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from ponderosa.identity import content_hash
from ponderosa.records import Problem, Step
from ponderosa.tasks.arithmetic import NUMBER, get_literals, get_value, parse_number, read_quantities
from ponderosa.tasks.equations import MARK, Line, UnreadableMark, read_line
from ponderosa.tasks.jsonl import GSM8K_FILES, GSM8K_HUB, JsonlTask, Loaded
from ponderosa.tasks.quarantine import QuarantinedRow
from ponderosa.tasks.worked import Unsolved, WorkedSolution

NAMES = "bcdefghjklmnopqrstuvwxyz"
FINAL = re.compile(r"\n?####\s*(\S+)\s*$")
NUM_SELECTION = 500

RejectReason = Literal[
    "no_solution", "wrong_mark", "no_equation", "untraced_number", "answer_not_computed", "too_long"
]
REJECT_REASONS: tuple[RejectReason, ...] = get_args(RejectReason)

KNOWN_CONSTANTS = frozenset(
    Fraction(value)
    for value in (
        *(
            *range(13),
            15,
            16,
            18,
            20,
            24,
            25,
            28,
            29,
            30,
            31,
            36,
            40,
            45,
            48,
            50,
            52,
            60,
            75,
            80,
            90,
            100,
            120,
        ),
        *(144, 168, 180, 200, 360, 365, 366, 500, 1000, 1760, 2000, 3600, 5280, 10000, "0.01", "0.05"),
        *("0.1", "0.25", "0.5", "0.75", "1.5"),
    )
)
"""What a solver may bring along: small counts, coins, the clock, the calendar and common units."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a rationale could not be converted, and the text that showed it."""

    reason: RejectReason
    detail: str = ""


class Result(NamedTuple):
    """An earlier equation's value and the name that holds it."""

    name: str
    value: Fraction


@dataclass(slots=True)
class Program:
    """A solution being written: its steps so far, its results, and the prose waiting for the next equation."""

    given: frozenset[Fraction]
    results: list[Result] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)


def convert_rationale(problem: Problem) -> list[Step] | Rejected:
    """The rationale of a GSM8K problem as code-augmented steps that print its answer, not yet executed."""
    final = FINAL.search(problem.solution or "")
    if not problem.solution or not final or not NUMBER.search(final[1]):
        return Rejected("no_solution")
    program = Program(read_quantities(problem.question))
    for marked_text in problem.solution[: final.start()].split("\n"):
        try:
            rejected = _add_line(program, read_line(marked_text.strip()))
        except UnreadableMark as error:
            return Rejected("wrong_mark", str(error))
        if rejected:
            return rejected
    if not program.results:
        return Rejected("no_equation")
    if program.results[-1].value != Fraction(final[1].replace(",", "").strip("$")):
        return Rejected("answer_not_computed", f"{program.results[-1].value} for {final[1]}")
    return _close(program)


def _add_line(program: Program, line: Line) -> Rejected | None:
    """Append a line's step; a line without an equation waits as a comment of the next one."""
    if not line.equations:
        program.prose.append(line.text)
        return None
    assignments: list[tuple[str, str]] = []
    for equation in line.equations:
        expression = _trace(program, equation.expression)
        if isinstance(expression, Rejected):
            return expression
        if len(program.results) == len(NAMES):
            return Rejected("too_long")
        name = NAMES[len(program.results)]
        program.results.append(Result(name, equation.value))
        assignments.append((name, expression))
    names = _get_speakable(program)
    comments = [*(_rename(text, names) for text in program.prose), _write_comment(line, assignments, names)]
    program.prose.clear()
    _append_step(program, comments, [f"{name} = {expression}" for name, expression in assignments])
    return None


def _trace(program: Program, expression: ast.expr) -> str | Rejected:
    """The expression with every literal that came from an earlier result replaced by its name.

    A value that is both given and computed is taken from the result if nothing has used that yet: results are
    there to be used.
    """
    is_restated = isinstance(expression, ast.Constant)
    sources: dict[int, str] = {}
    for literal in get_literals(expression):
        value = get_value(literal)
        if result := _find_result(program, value):
            sources[literal.col_offset] = result.name
        elif value in program.given or (value in KNOWN_CONSTANTS and not is_restated):
            continue
        elif result := _find_result(program, value * 100):  # 60 percent, used as 0.6
            sources[literal.col_offset] = f"{result.name} / 100"
        else:
            return Rejected("untraced_number", f"{ast.unparse(literal)} in {ast.unparse(expression)}")
        program.used.add(result.name)
    return ast.unparse(_ReplaceLiterals(sources).visit(expression))


def _find_result(program: Program, value: Fraction) -> Result | None:
    same = [result for result in reversed(program.results) if result.value == value]
    unused = [result for result in same if result.name not in program.used]
    if unused:
        return unused[0]
    return same[0] if same and value not in program.given else None


class _ReplaceLiterals(ast.NodeTransformer):
    """Put source expressions in the place of literals, found by their column."""

    def __init__(self, sources: Mapping[int, str]) -> None:
        self.sources = sources

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        source = self.sources.get(node.col_offset)
        return ast.parse(source, mode="eval").body if source else node


def _get_speakable(program: Program) -> dict[Fraction, str]:
    """The name to say for each computed value; a value that the question gives is said as a number."""
    return {result.value: result.name for result in program.results if result.value not in program.given}


def _write_comment(line: Line, assignments: Sequence[tuple[str, str]], names: Mapping[Fraction, str]) -> str:
    """The line's words, each equation replaced by the name of its result.

    Where the result was already said ("He eats 32 slices because 2 x 16 = 32") the arithmetic stays instead.
    """
    pieces: list[str] = []
    cursor = 0
    for equation, (name, expression) in zip(line.equations, assignments, strict=True):
        before, because, reason = line.text[cursor : equation.start].partition(" because ")
        own = {equation.value: name} if because else {}
        before = _rename(before, {**names, **own}) + because + _rename(reason, names)
        said = re.search(rf"(?<![\w']){name}(?![\w'])", before) and equation.end > equation.start
        pieces += [before, expression if said else name]
        cursor = equation.end
    tail = line.text[cursor:]
    pieces.append(_rename(tail, names))
    return _join(pieces)


def _join(pieces: Sequence[str]) -> str:
    """Pieces with exactly one space where two words would touch."""
    text = ""
    for piece in pieces:
        touches = text and piece and re.match(r"[\w(]", piece) and re.search(r"[\w).,;:=]$", text)
        text += (" " if touches else "") + piece
    return re.sub(r"\s+", " ", text).strip()


def _rename(text: str, names: Mapping[Fraction, str]) -> str:
    """Prose with computed numbers replaced by the names that hold them."""
    pattern = rf"[$£€]?\s?(?<![\w.])({NUMBER.pattern})(?![\d]*[\d/])"

    def name_number(match: re.Match[str]) -> str:
        name = names.get(parse_number(match[1]))
        lead = " " if match[0][0].isspace() or match[0][1:2].isspace() else ""
        return lead + name if name else match[0]

    return re.sub(pattern, name_number, text)


def _append_step(program: Program, comments: Sequence[str], code: Sequence[str]) -> None:
    """A new step, or more code of the last one where the line said nothing in words."""
    said = [f"# {comment}" for comment in comments if re.search(r"[A-Za-z]{2,}", comment)]
    if not said and program.steps:
        program.steps[-1] = _step([program.steps[-1].text, *code])
    else:
        program.steps.append(_step([*said, *code]))


def _close(program: Program) -> list[Step]:
    """The steps with the answer printed: by the last one, or by one more if the rationale had more to say."""
    names = _get_speakable(program)
    said = [
        f"# {_join([_rename(text, names)])}" for text in program.prose if re.search(r"[A-Za-z]{2,}", text)
    ]
    printed = f"print({program.results[-1].name})"
    if said:
        return [*program.steps, _step([*said, printed])]
    return [*program.steps[:-1], _step([program.steps[-1].text, printed])]


def _step(lines: Sequence[str]) -> Step:
    text = "\n".join(lines)
    return Step(text=text, code=text)


def render_prose(problem: Problem) -> str:
    """The rationale as plain prose for the base model: marks removed, "#### 72" kept at the end."""
    return MARK.sub("", problem.solution or "").strip()


@dataclass(frozen=True, slots=True)
class Gsm8kTask(JsonlTask):
    """GSM8K with its training file parted: `selection` is for choosing between models, never for reporting."""

    def load(self, split: str) -> Loaded:
        """Every problem of a split in file order: 6,973 train, 500 selection, 1,319 test."""
        if split not in ("train", "selection"):
            return JsonlTask.load(self, split)
        problems, quarantined = JsonlTask.load(self, "train")
        held = find_selection(problems)
        if split == "train":
            return Loaded([problem for problem in problems if problem.id not in held], quarantined)
        return Loaded([replace(p, split="selection") for p in problems if p.id in held], quarantined)

    def work_out(self, problem: Problem) -> WorkedSolution | Unsolved:
        """The rationale in code steps, not yet executed, and in prose."""
        steps = convert_rationale(problem)
        if isinstance(steps, Rejected):
            return Unsolved(steps.reason)
        return WorkedSolution(tuple(steps), render_prose(problem))


def find_selection(problems: Sequence[Problem]) -> frozenset[str]:
    """Ids of the 500 problems with the smallest content hash: the same ones whatever order the file is in."""
    ranked = sorted(problems, key=lambda problem: (content_hash(problem.question), problem.id))
    return frozenset(problem.id for problem in ranked[:NUM_SELECTION])


class Gsm8kSplits(NamedTuple):
    """GSM8K's training file, parted."""

    train: list[Problem]
    selection: list[Problem]
    quarantined: list[QuarantinedRow]


def load_gsm8k_splits() -> Gsm8kSplits:
    """Training problems to learn from, those held back for selection, and the file's refused rows."""
    train, quarantined = GSM8K.load("train")
    return Gsm8kSplits(train, GSM8K.load("selection").problems, quarantined)


GSM8K = Gsm8kTask("gsm8k", files=GSM8K_FILES, hub=GSM8K_HUB)
