"""A search tree for terminals: a line a step, in the order they were made; the least visited are left out and counted,
several dead ends of one step are one line, and a column that no step fills is not there."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from rich.text import Text

from ponderosa.report.tree_view import (
    MARKS,
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
COLUMNS = {"N": "visits", "Q": "mean value", "RM": "reward model"}
LEGEND = "* chosen · ✓ right ✗ wrong ■ not judged † dead"

_WIDTHS = {"N": 5, "Q": 6, "RM": 6}
_NUM_HEAD_LINES = 4
_MOST_QUESTION, _MOST_STEP, _MOST_OUTPUT = 200, 64, 28
_STYLES = {"right": "green", "wrong": "red", "dead": "bright_black", "ended": "cyan"}

_LEAST_FOLDED = 3
"""Fewer dead ends are worth a line each, with what they tried."""

Children = Mapping[int | None, Sequence[int]]


def render_tree_text(shown: ShownTree, *, most_lines: int = MOST_LINES, is_growing: bool = False) -> Text:
    """The tree under its question, in at most `most_lines` lines; a terminal cuts lines off where it ends.

    Steps are left out from the least visited on, the chosen solution's last.
    """
    path = frozenset(shown.tree.list_path(shown.chosen))
    folds = fold_dead_ends(shown, path)
    folded = {place for _, *others in folds.values() for place in others}
    children = {
        parent: [place for place in siblings if place not in folded]
        for parent, siblings in shown.tree.group_children().items()
    }
    kept = select_steps(shown, children, path, most_lines - _NUM_HEAD_LINES)
    columns = _choose_columns(shown)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{cut(spell_line(shown.question), _MOST_QUESTION)}\n")
    legend = " · ".join([*(f"{name} {COLUMNS[name]}" for name in columns), LEGEND])
    text.append(f"{describe_tree(shown, is_growing=is_growing)}\n{legend}", style="dim")
    if columns:
        text.append(f"\n{_spell_columns({name: name for name in columns}, columns)}".rstrip(" "), style="dim")
    for line in _list_lines(children, kept, folds, _count_below(shown)):
        text.append("\n")
        text.append_text(_render_line(shown, line, columns, is_chosen=line.place in path))
    return text


def fold_dead_ends(shown: ShownTree, path: frozenset[int]) -> dict[int, list[int]]:
    """Where several of the steps that continue one are dead, all of these under the first; `path` is never folded."""
    children = shown.tree.group_children()
    folds: dict[int, list[int]] = {}
    for siblings in children.values():
        dead = [
            place
            for place in siblings
            if (ending := find_ending(shown, place)) and ending.kind == "dead"
            if place not in path and place not in children
        ]
        if len(dead) >= _LEAST_FOLDED:
            folds[dead[0]] = dead
    return folds


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

    guides: the strokes that show what continues what. fold: dead ends that the line stands for, the step among them.
    """

    guides: str
    place: int | None
    left_out: str = ""
    fold: Sequence[int] = ()


def _list_lines(
    children: Children,
    kept: frozenset[int],
    folds: Mapping[int, Sequence[int]],
    sizes: Sequence[int],
    parent: int | None = None,
    guides: str = "",
) -> Iterator[_Line]:
    """Lines from the top down."""
    siblings = children.get(parent, ())
    drawn = [place for place in siblings if place in kept]
    rest = [place for place in siblings if place not in kept]
    if drawn and len(rest) == 1 and rest[0] in folds:  # as long as a line that counts them
        drawn, rest = list(siblings), []
    for place in drawn:
        is_last = place == drawn[-1] and not rest
        is_end = not any(child in kept for child in children.get(place, ()))
        left_out = _count_left_out(children.get(place, ()), folds, sizes) if is_end else ""
        yield _Line(f"{guides}{'└' if is_last else '├'} ", place, left_out, folds.get(place, ()))
        yield from _list_lines(children, kept, folds, sizes, place, f"{guides}{' ' if is_last else '│'} ")
    if drawn and rest:
        yield _Line(f"{guides}└ ", None, _count_left_out(rest, folds, sizes))


def _count_left_out(lines: Sequence[int], folds: Mapping[int, Sequence[int]], sizes: Sequence[int]) -> str:
    """How many steps are not drawn, and how many with all that continue them: `… 3 more (40 in all)`."""
    places = [place for line in lines for place in folds.get(line, (line,))]
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


def _choose_columns(shown: ShownTree) -> list[str]:
    """Beam search counts no visits; without a reward model there are no scores."""
    is_visited = any(node.visits for node in shown.tree.nodes)
    is_scored = any(node.score is not None for node in shown.tree.nodes)
    return [*(["N", "Q"] if is_visited else []), *(["RM"] if is_scored else [])]


def _spell_columns(cells: Mapping[str, str], columns: Sequence[str]) -> str:
    return "".join(f"{cells.get(name, ''):>{_WIDTHS[name]}} " for name in columns)


def _render_line(shown: ShownTree, line: _Line, columns: Sequence[str], *, is_chosen: bool) -> Text:
    nodes = shown.tree.nodes
    if line.place is None:
        return Text(f"{_spell_columns({}, columns)}  {line.guides}{line.left_out}", style="dim")
    if line.fold:
        visits = {"N": str(sum(nodes[place].visits for place in line.fold))}
        start = f"{_spell_columns(visits, columns)}  {line.guides}"
        return Text.assemble(start, (_describe_fold(shown, line.fold), _STYLES["dead"]))
    node, ending = nodes[line.place], find_ending(shown, line.place)
    cells = {
        "N": str(node.visits),
        "Q": format_signed(node.value) if node.visits else "",
        "RM": "" if node.score is None else format_signed(node.score),
    }
    text = Text(style="bold" if is_chosen else "")
    text.append(f"{_spell_columns(cells, columns)}{'*' if is_chosen else ' '} {line.guides}")
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


def _describe_fold(shown: ShownTree, fold: Sequence[int]) -> str:
    """`† 5 dead: 3 error, 2 no answer`."""
    reasons = Counter(ending.text for place in fold if (ending := find_ending(shown, place)))
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"{MARKS['dead']} {len(fold)} dead: {counted}"
