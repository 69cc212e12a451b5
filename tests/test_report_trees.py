"""Search trees on the page and in the terminal: what is shown, what is left out, and that hostile text stays text."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ponderosa.artifacts import read_json, write_json
from ponderosa.records import Node, Problem, Step
from ponderosa.report import write_report
from ponderosa.report.page import render_tree_page, write_tree_page
from ponderosa.report.run import load_run
from ponderosa.report.tree_text import render_tree_text
from ponderosa.report.tree_view import find_ending
from ponderosa.report.trees import render_trees
from ponderosa.shown_trees import (
    SHOWN_FILE,
    ShownTree,
    load_shown,
    locate_ending,
    save_shown,
    strip_tokens,
)
from ponderosa.stages.tree_samples import LARGEST, MIXED, UNSOLVED, select_trees, show_graded
from synthetic_tree import QUESTION, REFUTED, RIGHT, WRONG, grow_tree, show_tree
from test_report import ALLOWED_ATTRIBUTES, HOSTILE, Page

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def change_nodes(shown: ShownTree, **changes: Any) -> ShownTree:
    nodes = tuple(replace(node, **changes) for node in shown.tree.nodes)
    return replace(shown, tree=replace(shown.tree, nodes=nodes))


def build_node(parent: int | None, visits: int = 1, text: str = "x = 1", **changes: Any) -> Node:
    node = show_tree(1).tree.nodes[0]
    return replace(
        node, parent=parent, visits=visits, multiplicity=1, step=Step(text, text, None, "ok"), **changes
    )


def build_shown(*nodes: Node, **changes: Any) -> ShownTree:
    return ShownTree("How many?", replace(show_tree(1).tree, nodes=nodes), **changes)


def list_tree_lines(shown: ShownTree, most_lines: int = 60) -> list[str]:
    """The drawing below its heading, without the columns."""
    return [line[20:] for line in render_tree_text(shown, most_lines=most_lines).plain.split("\n")[4:]]


@pytest.fixture(scope="module")
def large() -> ShownTree:
    return show_tree(2_000)


def write_stage(run: Path, shown: list[ShownTree]) -> Path:
    folder = run / "stages" / "search-00ff"
    write_json(folder / "manifest.json", {"stage": "search", "kind": "search", "seed": 0})
    save_shown(folder, shown)
    (folder / "DONE").touch()
    return folder


# The file


def test_a_saved_tree_is_read_back_without_its_tokens(tmp_path: Path) -> None:
    shown = replace(show_tree(50), tree=replace(show_tree(50).tree, prompt_ids=(1, 2)))
    save_shown(tmp_path, [shown])

    assert load_shown(tmp_path / SHOWN_FILE) == [replace(shown, tree=strip_tokens(shown.tree))]


@pytest.mark.parametrize(
    "path",
    [
        ("tree", "nodes", 3, "parent", 7),
        ("tree", "nodes", 3, "parent", 3),
        ("tree", "nodes", 3, "parent", -1),
        ("tree", "nodes", 3, "visits", "many"),
        ("tree", "end", "tired"),
        ("chosen", 5_000),
        ("verdicts", {"0": {"correct": True, "reason": "timeout", "verifier": "v"}}),
    ],
)
def test_what_could_not_be_drawn_is_refused_in_reading(path: tuple[Any, ...], tmp_path: Path) -> None:
    save_shown(tmp_path, [show_tree(50)])
    [record] = read_json(tmp_path / SHOWN_FILE)
    *keys, last, value = path
    place = record
    for key in keys:
        place = place[key]
    place[last] = value
    write_json(tmp_path / SHOWN_FILE, [record])

    with pytest.raises(ValueError, match="validation error"):
        load_shown(tmp_path / SHOWN_FILE)


def test_a_path_leads_from_the_first_step_to_a_place() -> None:
    tree = build_shown(*(build_node(parent) for parent in (None, None, 1, 2, 1))).tree
    assert tree.list_path(3) == [1, 2, 3]
    assert tree.list_path(None) == []


def test_a_solution_is_found_in_its_tree_by_its_tokens() -> None:
    tree = build_shown(
        build_node(None, token_ids=(1, 2)),
        build_node(0, token_ids=(3,), finish="stop"),
        build_node(0, token_ids=(4,), finish="stop"),
        build_node(0, token_ids=(5,)),
    ).tree
    assert locate_ending(tree, (1, 2, 4)) == 2
    assert locate_ending(tree, (1, 2)) is None
    assert locate_ending(tree, (1, 2, 5)) is None, "it goes on"


# Which trees


def test_a_mixed_an_unsolved_and_the_largest_tree_are_shown_each_once() -> None:
    def end(correct: list[bool], num_nodes: int, problem_id: str):
        graded = grow_tree(num_nodes, problem_id=problem_id)
        return graded._replace(
            verdicts={place: RIGHT if right else WRONG for place, right in enumerate(correct)}
        )

    trees = [
        end([True, True], 10, "solved"),
        end([True, False], 12, "mixed"),
        end([False, False], 11, "unsolved"),
        end([True], 40, "large"),
    ]
    problems = {name: Problem(name, "51", id=name) for name in ("solved", "mixed", "unsolved", "large")}

    shown = select_trees(problems, iter(trees))
    assert [(one.question, one.label) for one in shown] == [
        ("mixed", MIXED),
        ("unsolved", UNSOLVED),
        ("large", LARGEST),
    ]
    assert [one.question for one in select_trees(problems, trees[1:2])] == ["mixed"]
    assert select_trees(problems, reversed(trees)) == shown
    assert select_trees(problems, []) == []


def test_the_chosen_solution_is_the_right_one_of_highest_mean_value() -> None:
    nodes = (
        build_node(None, value=0.5),
        build_node(0, value=0.2, finish="stop"),
        build_node(0, value=0.4, finish="stop"),
        build_node(0, value=0.9, finish="stop"),
    )
    graded = grow_tree(1)._replace(
        tree=replace(grow_tree(1).tree, nodes=nodes), verdicts={1: RIGHT, 2: RIGHT, 3: WRONG}
    )
    assert show_graded(Problem("?"), graded).chosen == 2
    assert show_graded(Problem("?"), graded._replace(verdicts={3: WRONG})).chosen is None


# The page


@pytest.mark.parametrize("num_nodes", [1, 50, 2_000])
def test_every_step_of_a_tree_is_on_the_page_in_less_than_3_mb(num_nodes: int) -> None:
    text = render_tree_page(show_tree(num_nodes))
    page = Page(text)

    assert page.open == []
    assert text.count('class="step') == num_nodes
    assert len(text.encode()) < 3_000_000
    assert "script" not in page.tags


def test_a_tree_of_long_texts_stays_below_3_mb_too(large: ShownTree) -> None:
    long = change_nodes(large, step=Step("", "# why\n" + "x = 1 < 2\n" * 400, "7" * 4_000, "ok"))
    assert len(render_tree_page(long).encode()) < 3_000_000


def test_a_step_shows_its_code_output_and_numbers() -> None:
    step = Step("", "# Ben has twice as many.\nben = 2 * ada\nprint(ben)", "28", "ok")
    node = replace(build_node(None, 12), step=step, value=-0.625, prior=0.375, multiplicity=3, score=0.41)
    text = Page(render_tree_page(build_shown(node, gold="28", label="most steps"))).text

    assert "# Ben has twice as many. · ben = 2 * ada · print(ben)" in text
    assert "ben = 2 * ada\nprint(ben)\n" in text
    for piece in ("12", "−0.62", "+0.41", "0.38", "×3", "How many?", "gold 28", "most steps", "1 step"):
        assert piece in text


def test_a_tree_without_scores_has_no_column_for_them() -> None:
    shown = show_tree(9)
    assert 'class="tree"' in render_tree_page(shown)
    assert 'class="tree unscored"' in render_tree_page(change_nodes(shown, score=None))


def test_the_chosen_solution_is_open_and_marked_and_the_rest_closed(large: ShownTree) -> None:
    text = render_tree_page(large)
    path = large.tree.list_path(large.chosen)

    assert large.chosen is not None
    assert len(re.findall(r'<details class="[^"]*chosen" open="">', text)) == len(path)
    assert text.count('open=""') == len(path)


def test_steps_that_continue_one_stand_in_it_most_visited_first() -> None:
    shown = build_shown(
        build_node(None, text="root"),
        build_node(0, 2, "second"),
        build_node(0, 9, "first"),
        build_node(None, 5, "other"),
    )
    found = re.findall(r"<summary>.*?<code>(\w+)</code>|(</details>)", render_tree_page(shown))
    assert [name or "end" for name, _ in found] == [
        *("other", "end", "root", "first", "end", "second", "end", "end")
    ]


def test_steps_with_few_visits_can_be_hidden_without_a_script() -> None:
    text = render_tree_page(build_shown(build_node(None, 3)))
    assert 'class="step few4 few16"' in text
    for least in (2, 4, 16):
        assert f'value="{least}"' in text
        assert f'.tree:has([value="{least}"]:checked) .few{least}' in text


def test_a_tree_without_visits_has_nothing_to_hide_by() -> None:
    assert "<input" not in render_tree_page(build_shown(build_node(None, 0)))


def test_a_tree_that_is_too_large_or_too_deep_says_what_is_left_out() -> None:
    wide = build_shown(*(build_node(None) for _ in range(2_500)))
    deep = build_shown(*(build_node(place - 1 if place else None) for place in range(450)))

    assert "500 of 2,500 steps are left out" in render_tree_page(wide)
    assert "50 of 450 steps are left out" in render_tree_page(deep)


@pytest.mark.parametrize(
    ("changes", "verdict", "expected"),
    [
        ({"finish": "stop", "answer": "51"}, RIGHT, ("right", "51")),
        ({"finish": "stop", "answer": "37"}, WRONG, ("wrong", "37")),
        ({"finish": "stop", "answer": "51"}, REFUTED, ("wrong", "51, right on these numbers only")),
        ({"finish": "stop", "answer": "37"}, None, ("ended", "37")),
        ({"finish": "stop", "step": Step("", "1/0", "ZeroDivisionError", "error")}, None, ("dead", "error")),
        ({"finish": "stop", "step": Step("", "x", None, "output_limit")}, None, ("dead", "output limit")),
        ({"finish": "length"}, WRONG, ("dead", "cut off")),
        ({"finish": "stop"}, None, ("dead", "no answer")),
    ],
)
def test_an_ending_is_right_wrong_not_judged_or_dead(changes, verdict, expected) -> None:
    shown = build_shown(
        replace(build_node(None), **changes), verdicts={} if verdict is None else {0: verdict}
    )
    ending = find_ending(shown, 0)
    assert ending is not None
    assert (ending.kind, ending.text) == expected
    assert ending.mark in render_tree_page(shown)


def poison(hostile: str) -> ShownTree:
    """A tree in which every text is hostile."""
    shown = show_tree(12)
    nodes = [
        replace(
            node,
            step=Step(hostile, hostile if i % 2 else None, hostile, "ok"),
            finish="stop" if i > 8 else None,
            answer=hostile,
        )
        for i, node in enumerate(shown.tree.nodes)
    ]
    tree = replace(shown.tree, nodes=tuple(nodes), strategy=hostile, problem_id=hostile, model_id=hostile)
    return ShownTree(hostile, tree, hostile, hostile, {10: RIGHT, 11: WRONG}, 10)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_a_tree_stays_visible_text_on_the_page(kind: str, tmp_path: Path) -> None:
    write_stage(tmp_path, [poison(HOSTILE[kind])])
    text = write_report(tmp_path).read_bytes().decode("utf-8")
    page = Page(text)

    assert 'id="search-trees"' in text
    assert page.open == []
    assert not {"script", "img", "svg"} & set(page.tags)
    assert {name for name, _ in page.attributes} <= {*ALLOWED_ATTRIBUTES, "type", "value", "checked"}
    assert not HIDDEN.search(text)


def test_a_run_without_trees_has_no_such_section(tmp_path: Path) -> None:
    assert render_trees(load_run(tmp_path)) is None
    assert "search-trees" not in write_report(tmp_path).read_text()


def test_damaged_trees_are_a_note_and_not_the_end_of_the_report(tmp_path: Path) -> None:
    folder = write_stage(tmp_path, [show_tree(8)])
    (folder / SHOWN_FILE).write_text(json.dumps([{"tree": None}]))
    text = write_report(tmp_path).read_text()

    assert "shown_trees.json cannot be read (ValidationError)" in text
    assert "search-trees" not in text


def test_each_stage_that_left_trees_has_a_fold_and_each_tree_its_own_filter(tmp_path: Path) -> None:
    write_stage(tmp_path, [show_tree(50), show_tree(60, seed=1)])
    text = write_report(tmp_path).read_text()

    assert "<b>search</b> most steps, most steps" in text
    assert 'name="visits-00ff-0"' in text
    assert 'name="visits-00ff-1"' in text


TIMED = """<script>
const time = change => { const start = performance.now(); change(); document.body.offsetHeight;
                         return performance.now() - start; };
onload = () => {
  const steps = [...document.querySelectorAll(".step")];
  const closed = steps.find(step => !step.open && step.querySelector(".step"));
  const said = {
    steps: steps.length,
    width: document.documentElement.scrollWidth,
    shown: steps.filter(step => step.checkVisibility()).length,
    load: performance.now(),
    open: time(() => closed.open = true),
    filter: time(() => document.querySelector("input[value='16']").click()),
    left: steps.filter(step => getComputedStyle(step).display !== "none").length,
  };
  document.body.textContent = "SAID" + JSON.stringify(said) + "SAID";
};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_chromium_shows_2000_steps_quickly_and_no_wider_than_its_window(
    width: int, large: ShownTree, tmp_path: Path
) -> None:
    write_tree_page(tmp_path / "tree.html", large)
    text = (tmp_path / "tree.html").read_text()
    timed = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</head>", f"{TIMED}</head>")
    (tmp_path / "timed.html").write_text(timed)
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"),
        *(f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900"),
        (tmp_path / "timed.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said = json.loads(done.stdout.split("SAID")[-2])

    path = large.tree.list_path(large.chosen)
    children = large.tree.group_children()
    assert said["steps"] == 2_000
    assert said["shown"] == sum(len(children.get(place, ())) for place in [None, *path])
    busy = {place for place, node in enumerate(large.tree.nodes) if node.visits >= 16}
    assert said["left"] == len(busy | set(path))
    assert said["width"] <= max(width, 500), "the page must not scroll sideways"
    assert said["load"] < 5_000
    assert said["open"] < 1_000
    assert said["filter"] < 1_000


# The terminal


def test_a_small_tree_is_drawn_whole() -> None:
    shown = build_shown(
        build_node(None, 4, "a"),
        build_node(0, 3, "b"),
        build_node(1, 2, "c", finish="stop", answer="51"),
        build_node(0, 1, "d"),
        build_node(None, 1, "e"),
        verdicts={2: RIGHT},
        chosen=2,
    )
    assert list_tree_lines(shown) == ["* ├ a", "* │ ├ b", "* │ │ └ c ✓ 51", "  │ └ d", "  └ e"]


def test_a_line_shows_visits_q_score_output_and_multiplicity() -> None:
    step = Step("", "# Ben has twice as many.\nben = 2 * ada", "28\n29", "ok")
    node = replace(build_node(None, 12), step=step, value=-0.625, multiplicity=3, score=0.41)
    [line] = render_tree_text(build_shown(node)).plain.split("\n")[4:]
    assert line == "   12  −0.62  +0.41   └ # Ben has twice as many. · ben = 2 * ada → 28 29 ×3"


def test_three_dead_ends_of_one_step_are_one_line_with_their_reasons_and_two_are_not() -> None:
    failed = Step("x", "x", "NameError", "error")
    dead = [
        replace(build_node(0, 2, finish="stop"), step=failed),
        build_node(0, 1, finish="length"),
        replace(build_node(0, 2, finish="stop"), step=failed),
    ]
    alive = build_node(0, 4, "y", finish="stop", answer="51")
    shown = build_shown(build_node(None, 9, "a"), dead[0], alive, *dead[1:])

    lines = render_tree_text(shown).plain.split("\n")[4:]
    assert [line[20:] for line in lines] == ["  └ a", "    ├ † 3 dead: 2 error, 1 cut off", "    └ y ■ 51"]
    assert lines[1][:20] == "    5               "
    assert "dead" not in list_tree_lines(build_shown(build_node(None), *dead[:2]))
    assert list_tree_lines(shown, most_lines=5) == ["  └ a … 4 more"]

    deeper = [build_node(0, 8, "y"), build_node(4, 7, "z"), build_node(5, 6, "w")]
    shown = build_shown(build_node(None, 9, "a"), *dead, *deeper)
    assert list_tree_lines(shown, most_lines=8) == [
        *("  └ a", "    ├ † 3 dead: 2 error, 1 cut off", "    └ y", "      └ z … 1 more")
    ]


def test_dead_ends_keep_their_line_where_one_is_chosen_or_goes_on() -> None:
    dead = [build_node(0, 1, f"s{place}", finish="stop") for place in range(3)]
    root, below = build_node(None), build_node(1, 1, "t")
    assert len(list_tree_lines(build_shown(root, *dead, chosen=2))) == 4
    assert len(list_tree_lines(build_shown(root, *dead, below))) == 5


def test_a_column_that_no_step_fills_is_not_there() -> None:
    def draw(**changes: Any) -> list[str]:
        return render_tree_text(build_shown(replace(build_node(None, 3, "a"), **changes))).plain.split("\n")[
            2:
        ]

    visited, searched, scored, bare = (
        draw(value=0.5, score=0.25),
        draw(value=0.5, score=None),
        draw(visits=0, score=0.25),
        draw(visits=0, score=None),
    )
    assert visited[0].startswith("N visits · Q mean value · RM reward model · * chosen")
    assert visited[1:] == ["    N      Q     RM", "    3  +0.50  +0.25   └ a"]
    assert searched[0].startswith("N visits · Q mean value · * chosen")
    assert searched[1:] == ["    N      Q", "    3  +0.50   └ a"]
    assert scored[1:] == ["    RM", " +0.25   └ a"]
    assert bare == ["* chosen · ✓ right ✗ wrong ■ not judged † dead", "  └ a"]


def test_an_empty_step_says_so_unless_it_ends_the_solution() -> None:
    ended = build_node(0, 1, " \n", finish="stop", answer="51")
    assert list_tree_lines(build_shown(build_node(None, 2, ""), ended)) == ["  └ (empty)", "    └  ■ 51"]


def test_the_least_visited_steps_are_left_out_and_counted() -> None:
    nodes = [build_node(None, 10 - place, f"s{place}") for place in range(6)]
    shown = build_shown(*nodes, build_node(5, 1, "below"), build_node(0, 1, "under"))

    assert list_tree_lines(shown, most_lines=7) == [*("  ├ s0 … 1 more", "  ├ s1", "  └ … 4 more (5 in all)")]


@pytest.mark.parametrize("num_nodes", [1, 50, 2_000])
@pytest.mark.parametrize("most_lines", [8, 24, 60])
def test_a_drawing_has_no_more_lines_than_asked_for_and_accounts_for_every_step(
    num_nodes: int, most_lines: int
) -> None:
    shown = show_tree(num_nodes)
    lines = list_tree_lines(shown, most_lines)
    left_out = sum(
        int((match[2] or match[1]).replace(",", ""))
        for match in re.finditer(r"… (\d+) more(?: \((\d+) in all\))?", "\n".join(lines))
    )
    drawn = [line for line in lines if not re.match(r"  [│├└ ]*… ", line)]
    folded = sum(int(number) - 1 for number in re.findall(r"† (\d+) dead: ", "\n".join(drawn)))

    assert len(lines) <= most_lines - 4
    assert len(drawn) + folded + left_out == num_nodes


def test_the_chosen_solution_is_bold_and_drawn_before_all_others(large: ShownTree) -> None:
    path = large.tree.list_path(large.chosen)
    text = render_tree_text(large, most_lines=4 + 2 * len(path))
    bold = [span for span in text.spans if span.style == "bold"]

    assert sum(line[20:22] == "* " for line in text.plain.split("\n")) == len(path)
    assert len(bold) == len(path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_a_tree_never_steers_the_terminal(kind: str) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(render_tree_text(poison(HOSTILE[kind])))

    assert not HIDDEN.search(captured.get())
    assert len(render_tree_text(poison(HOSTILE[kind])).plain.split("\n")) == 16


def test_the_question_and_what_became_of_the_search_stand_above(large: ShownTree) -> None:
    question, facts, *_ = render_tree_text(large).plain.split("\n")
    assert question == QUESTION
    assert facts.startswith("mcts · 2,000 steps · ")
    assert facts.endswith("62,000 tokens · stopped: budget")
