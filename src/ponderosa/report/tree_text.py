"""A search tree for terminals: a line a step, in the order they were made; the least visited are left out and counted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from rich.text import Text

from ponderosa.report.tree_view import (
    cut,
    describe_tree,
    find_ending,
    format_signed,
    spell_line,
    spell_output,
    spell_step,
)
from ponderosa.shown_trees import ShownTree

MOST_LINES = 60
LEGEND = "N visits · Q mean value · RM reward model · * chosen · ✓ right ✗ wrong ■ not judged † dead"

_NUM_HEAD_LINES = 4
_MOST_QUESTION, _MOST_STEP, _MOST_OUTPUT = 200, 64, 28
_STYLES = {"right": "green", "wrong": "red", "dead": "bright_black", "ended": "cyan"}

Children = Mapping[int | None, Sequence[int]]


def render_tree_text(shown: ShownTree, *, most_lines: int = MOST_LINES, is_growing: bool = False) -> Text:
    """The tree under its question, in at most `most_lines` lines; a terminal cuts lines off where it ends.

    Steps are left out from the least visited on, the chosen solution's last.
    """
    children = shown.tree.group_children()
    path = frozenset(shown.tree.list_path(shown.chosen))
    kept = select_steps(shown, children, path, most_lines - _NUM_HEAD_LINES)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{cut(spell_line(shown.question), _MOST_QUESTION)}\n")
    facts = describe_tree(shown, is_growing=is_growing)
    text.append(f"{facts}\n{LEGEND}\n{'N':>5} {'Q':>6} {'RM':>6}", style="dim")
    for line in _list_lines(children, kept, _count_below(shown)):
        text.append("\n")
        text.append_text(_render_line(shown, line, is_chosen=line.place in path))
    return text


def select_steps(
    shown: ShownTree, children: Children, path: frozenset[int], most_lines: int
) -> frozenset[int]:
    """The steps to draw: each after the one it continues, `path` first, then the most visited.

    Where only some of the steps that continue one are drawn, a line more counts the others.
    """
    nodes = shown.tree.nodes

    def rank(place: int) -> tuple[bool, int, int]:
        return place not in path, -nodes[place].visits, place

    waiting = [rank(place) for place in children.get(None, ())]
    heapify(waiting)
    num_drawn = dict.fromkeys(children, 0)
    num_lines = 0
    kept: set[int] = set()
    while waiting:
        *_, place = heappop(waiting)
        parent = nodes[place].parent
        before, among = num_drawn[parent], len(children[parent])
        num_lines += 1 + (0 < before + 1 < among) - (0 < before < among)
        if num_lines > most_lines:
            break
        num_drawn[parent] += 1
        kept.add(place)
        for child in children.get(place, ()):
            heappush(waiting, rank(child))
    return frozenset(kept)


@dataclass(frozen=True, slots=True)
class _Line:
    """A step and how many that continue it are not drawn; or, without a place, how many beside those above are not.

    guides: the strokes that show what continues what.
    """

    guides: str
    place: int | None
    left_out: str = ""


def _list_lines(
    children: Children,
    kept: frozenset[int],
    sizes: Sequence[int],
    parent: int | None = None,
    guides: str = "",
) -> Iterator[_Line]:
    """Lines from the top down."""
    drawn = [place for place in children.get(parent, ()) if place in kept]
    rest = [place for place in children.get(parent, ()) if place not in kept]
    for place in drawn:
        is_last = place == drawn[-1] and not rest
        is_end = not any(child in kept for child in children.get(place, ()))
        left_out = _count_left_out(children.get(place, ()), sizes) if is_end else ""
        yield _Line(f"{guides}{'└' if is_last else '├'} ", place, left_out)
        yield from _list_lines(children, kept, sizes, place, f"{guides}{' ' if is_last else '│'} ")
    if drawn and rest:
        yield _Line(f"{guides}└ ", None, _count_left_out(rest, sizes))


def _count_left_out(places: Sequence[int], sizes: Sequence[int]) -> str:
    """How many steps are not drawn, and how many with all that continue them: `… 3 more (40 in all)`."""
    if not places:
        return ""
    in_all = sum(sizes[place] for place in places)
    return f"… {len(places)} more" + (f" ({in_all} in all)" if in_all > len(places) else "")


def _count_below(shown: ShownTree) -> list[int]:
    """How many steps begin with each one, itself included."""
    sizes = [1] * len(shown.tree.nodes)
    for place in range(len(sizes) - 1, -1, -1):
        parent = shown.tree.nodes[place].parent
        if parent is not None:
            sizes[parent] += sizes[place]
    return sizes


def _render_line(shown: ShownTree, line: _Line, *, is_chosen: bool) -> Text:
    if line.place is None:
        return Text(f"{'':22}{line.guides}{line.left_out}", style="dim")
    node, ending = shown.tree.nodes[line.place], find_ending(shown, line.place)
    value = format_signed(node.value) if node.visits else ""
    score = format_signed(node.score) if node.score is not None else ""
    text = Text(style="bold" if is_chosen else "")
    text.append(f"{node.visits:>5} {value:>6} {score:>6} {'*' if is_chosen else ' '} {line.guides}")
    text.append(cut(spell_step(node), _MOST_STEP))
    if output := spell_output(node):
        text.append(f" → {cut(output, _MOST_OUTPUT)}", style="cyan")
    if ending is not None:
        text.append(f" {ending.mark} {cut(ending.text, _MOST_OUTPUT)}", style=_STYLES[ending.kind])
    if node.multiplicity > 1:
        text.append(f" ×{node.multiplicity}", style="dim")
    if line.left_out:
        text.append(f" {line.left_out}", style="dim")
    return text
