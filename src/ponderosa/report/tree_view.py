"""What the page and the terminal say alike of a search tree: a step in one line, how a solution ended, what is left out."""

from dataclasses import dataclass
from typing import Literal

from ponderosa.records import Node
from ponderosa.report.escape import show_controls
from ponderosa.report.numbers import MISSING, as_number, format_count
from ponderosa.shown_trees import ShownTree

Kind = Literal["right", "wrong", "dead", "ended"]
"""How a solution ended: with an answer that is right, wrong or not judged; or without one."""

_MOST_READ = 2_000
"""Characters of a text that a line is made of: a line is shorter, and drawing must stay quick."""

MARKS: dict[Kind, str] = {"right": "✓", "wrong": "✗", "dead": "†", "ended": "■"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a solution ended, and its answer or what became of it, in one line that is safe to show."""

    kind: Kind
    text: str

    @property
    def mark(self) -> str:
        return MARKS[self.kind]


def find_ending(shown: ShownTree, place: int) -> Ending | None:
    """How the solution ended with this step; None if it could go on."""
    node, verdict = shown.tree.nodes[place], shown.verdicts.get(place)
    if node.finish is None:
        return None
    if verdict is not None and verdict.correct:
        return Ending("right", spell_line(node.answer or ""))
    if node.answer is None:
        return Ending("dead", _say_why_dead(node))
    if verdict is None:
        return Ending("ended", spell_line(node.answer))
    by_other_numbers = ", right on these numbers only" if verdict.reason == "refuted" else ""
    return Ending("wrong", spell_line(node.answer) + by_other_numbers)


def spell_step(node: Node) -> str:
    """A step in one line that is safe to show: its lines, comments first as they stand, joined."""
    line = " · ".join(_list_lines(node.step.code or node.step.text))
    return line or ("" if node.finish else "(empty)")


def spell_output(node: Node) -> str:
    """What running a step showed, in one line that is safe to show."""
    return spell_line(node.step.observation or "")


def spell_line(text: str) -> str:
    """A text in one line that is safe to show."""
    return " ".join(_list_lines(text))


def _list_lines(text: str) -> list[str]:
    """The lines that hold something; hidden characters are named before any is taken for a space."""
    lines = (" ".join(line.split()) for line in show_controls(text[:_MOST_READ]).split("\n"))
    return [line for line in lines if line]


def _say_why_dead(node: Node) -> str:
    outcome = node.step.outcome
    if outcome not in (None, "ok"):
        return str(outcome).replace("_", " ")
    return {"length": "cut off", "error": "refused"}.get(str(node.finish), "no answer")


def cut(text: str, most: int) -> str:
    """At most this many characters; an ellipsis stands for the rest."""
    return text if len(text) <= most else f"{text[: max(0, most - 1)]}…"


def format_signed(value: float | None) -> str:
    """A value in [-1, 1] with its sign: `+0.62`."""
    number = as_number(value)
    return MISSING if number is None else f"{round(number, 2) + 0.0:+.2f}".replace("-", "−")


def describe_tree(shown: ShownTree, *, is_growing: bool = False) -> str:
    """A tree in one line: what grew it, how large it is, how its solutions ended, why the search stopped."""
    tree = shown.tree
    endings = [find_ending(shown, place) for place in range(len(tree.nodes))]
    kinds = [ending.kind for ending in endings if ending is not None]
    counted = {"right": "right", "wrong": "wrong", "ended": "answered", "dead": "dead"}
    facts = [
        spell_line(tree.strategy),
        count_things(len(tree.nodes), "step"),
        *(f"{kinds.count(kind)} {word}" for kind, word in counted.items() if kind in kinds),
        f"{format_count(tree.cost.generated_tokens)} tokens",
        "growing" if is_growing else f"stopped: {tree.end}",
    ]
    return " · ".join(facts)


def count_things(count: int, name: str) -> str:
    return f"{format_count(count)} {name}{'' if count == 1 else 's'}"
