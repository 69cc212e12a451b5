"""Search trees, step by step: nested folds without a script, so a browser lays out only what is open."""

from collections.abc import Iterable
from dataclasses import asdict

from ponderosa.records import Node, Step
from ponderosa.report.attempts import render_step
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import as_number, format_count
from ponderosa.report.run import Run, StageFolder
from ponderosa.report.tree_view import (
    Ending,
    cut,
    describe_tree,
    find_ending,
    format_signed,
    spell_output,
    spell_step,
)
from ponderosa.shown_trees import ShownTree

LEGEND = (
    "A line is a step; open it for its code, what that printed, and the steps that continue it, most visited first. "
    "N: visits. Q: mean value backed up, −1 to 1. RM: the reward model's score, −1 to 1. P: prior. ×k: k candidates were "
    "written exactly so. ✓ right, ✗ wrong, ■ answered but not judged, † ended without an answer. The chosen solution "
    "stands out and is open. A browser's own search finds text in closed steps too."
)
"""How to read a tree."""

_HEADING = tag(
    "p",
    tag("span", "step", class_="line"),
    tag("span", [tag("i", name) for name in ("N", "Q", "RM", "P", "×")], class_="stats"),
    class_="heading note",
)
_MOST_STEPS = 2_000
_MOST_DEPTH = 400
"""A browser nests elements 512 deep and no deeper."""

_MOST_CHARACTERS = 1_000_000
"""Of all steps' code and output together, before they are escaped: what bounds the page."""

_MOST_LINE, _MOST_OUTPUT, _MOST_ANSWER = 110, 55, 28
_VISITS = (2, 4, 16)
"""The least visits that a reader can ask for."""


def render_trees(run: Run) -> Html | None:
    """A fold for each stage that left trees to be shown, the last one open; None if none did."""
    searched = [stage for stage in run.stages if stage.trees]
    folds = [_render_stage(stage, is_open=stage is searched[-1]) for stage in searched]
    return tag("div", folds) if folds else None


def render_tree(shown: ShownTree, *, name: str = "tree") -> Html:
    """One tree under its question. name: distinguishes the trees of one page."""
    gold = None if shown.gold is None else tag("span", "gold ", tag("b", shown.gold, class_="model-text"))
    kept = _select_steps(shown)
    num_out = len(shown.tree.nodes) - len(kept)
    is_scored = any(node.score is not None for node in shown.tree.nodes)
    left_out = f"{num_out:,} of {len(shown.tree.nodes):,} steps are left out: the last made, and the deepest"
    return tag(
        "article",
        tag(
            "header",
            tag("b", shown.label) if shown.label else None,
            tag("span", describe_tree(shown), class_="note"),
        ),
        tag("p", shown.question, class_="question model-text", dir="auto"),
        tag("p", gold, class_="note") if gold else None,
        _render_filter(name) if any(node.visits >= _VISITS[0] for node in shown.tree.nodes) else None,
        tag("p", left_out, class_="note") if num_out else None,
        _HEADING,
        _render_steps(shown, kept),
        class_="tree" if is_scored else "tree unscored",
    )


def _render_stage(stage: StageFolder, *, is_open: bool) -> Html:
    summary = tag("summary", tag("b", stage.label), " ", ", ".join(shown.label for shown in stage.trees))
    trees = [render_tree(shown, name=f"{stage.key}-{i}") for i, shown in enumerate(stage.trees)]
    return tag("details", summary, trees, open="" if is_open else None)


def _render_filter(name: str) -> Html:
    """Hides steps with few visits; the style sheet does it."""

    def render_choice(least: int) -> Html:
        checked = None if least else ""
        choice = tag("input", type="radio", name=f"visits-{name}", value=str(least), checked=checked)
        return tag("label", choice, f"≥ {least}" if least else "all")

    return tag("p", "steps with visits ", map(render_choice, (0, *_VISITS)), class_="note")


def _select_steps(shown: ShownTree) -> set[int]:
    """The first steps that were made, and the chosen solution's; none deeper than can be nested."""
    depths: list[int] = []
    for node in shown.tree.nodes:
        depths.append(0 if node.parent is None else depths[node.parent] + 1)
    first = {*range(min(_MOST_STEPS, len(depths))), *shown.tree.list_path(shown.chosen)}
    return {place for place in first if depths[place] < _MOST_DEPTH}


def _render_steps(shown: ShownTree, kept: set[int]) -> list[Html]:
    """The first steps, each holding those that continue it: children are rendered before what holds them."""
    nodes, children = shown.tree.nodes, shown.tree.group_children()
    chosen = set(shown.tree.list_path(shown.chosen))
    most = _bound_texts([nodes[place].step for place in kept])
    rendered: dict[int, Html] = {}

    def take(parent: int | None) -> list[Html]:
        ordered = sorted(children.get(parent, ()), key=lambda place: (-nodes[place].visits, place))
        return [rendered.pop(place) for place in ordered if place in rendered]

    for place in sorted(kept, reverse=True):
        node, following = nodes[place], take(place)
        few = [f"few{least}" for least in _VISITS if node.visits < least]
        is_chosen = place in chosen
        rendered[place] = tag(
            "details",
            tag(
                "summary",
                _render_line(node, find_ending(shown, place), len(following)),
                _render_numbers(node),
            ),
            render_step(asdict(_cut_step(node.step, most))),
            following,
            class_=" ".join(["step", *few, *["chosen"] * is_chosen]),
            open="" if is_chosen else None,
        )
    return take(None)


def _render_line(node: Node, ending: Ending | None, num_following: int) -> Html:
    """The step in a line: what it says, what it printed, how it ended."""
    output = cut(spell_output(node), _MOST_OUTPUT)
    end = f"{ending.mark} {cut(ending.text, _MOST_ANSWER)}" if ending else ""
    return tag(
        "span",
        tag("code", cut(spell_step(node), _MOST_LINE)),
        tag("samp", output) if output else None,
        tag("b", end, class_=ending.kind) if ending else None,
        tag("small", f"{num_following} next") if num_following else None,
        class_="line model-text",
    )


def _render_numbers(node: Node) -> Html:
    """The columns; the style sheet names them where there is no room for a heading."""
    share = 0.5 + 0.5 * max(-1.0, min(1.0, as_number(node.value) or 0.0))
    meter = tag("span", class_="meter", style=f"--share:{share:.0%}")
    columns = (
        format_count(node.visits),
        [meter, format_signed(node.value)] if node.visits else "",
        "" if node.score is None else format_signed(node.score),
        f"{as_number(node.prior) or 0:.2f}",
        f"×{node.multiplicity}" if node.multiplicity > 1 else "",
    )
    return tag("span", [tag("i", column) for column in columns], class_="stats")


def _bound_texts(steps: Iterable[Step]) -> int:
    """The longest that a code or an output may be, so that all together keep to the bound."""
    lengths = [len(text or "") for step in steps for text in (step.code or step.text, step.observation)]
    most = 4_000
    while most > 80 and sum(min(length, most) for length in lengths) > _MOST_CHARACTERS:
        most //= 2
    return most


def _cut_step(step: Step, most: int) -> Step:
    """A step whose texts have a bounded length."""
    code, observation = (None if one is None else cut(one, most) for one in (step.code, step.observation))
    return Step("" if code else cut(step.text, most), code, observation, step.outcome)
