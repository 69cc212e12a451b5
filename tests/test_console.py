"""What progress looks like on a terminal and elsewhere."""

import io
import time

import pytest
from rich.console import Console

from ponderosa.console import PlainLines, PlainTask, RichBars, TreeDrawing, build_progress, print_tree
from ponderosa.progress import SILENT, track
from synthetic_tree import QUESTION, grow_tree, show_tree

HOSTILE = "[red]\x1b[2Jowned\u202e[/red]"


def test_quiet_says_nothing() -> None:
    assert build_progress(quiet=True) is SILENT


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = build_progress()

    progress.say("hello")

    assert isinstance(progress, PlainLines)
    assert capsys.readouterr() == ("", "hello\n")


def test_short_work_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    with track(PlainLines(), "quick", 3) as bar:
        bar.advance(3)

    assert capsys.readouterr() == ("", "")


def test_a_line_tells_rate_and_time_left() -> None:
    task = PlainTask("work", 100, "problems", 20)
    task.started_at = time.monotonic() - 10
    task.advance(30, loss=0.5)

    assert task.describe() == "  work: 50/100 problems, 3/s, 17 s left, loss 0.5"


def test_the_time_left_is_not_guessed_from_the_first_few() -> None:
    task = PlainTask("work", 1000, "problems", 0)
    task.started_at = time.monotonic() - 10
    task.advance(3)

    assert task.describe() == "  work: 3/1,000 problems, 0.3/s"


def test_work_that_was_interrupted_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with track(PlainLines(), "work", 10) as bar:
            assert isinstance(bar, PlainTask)
            bar.started_at -= 80
            bar.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()

    said = capsys.readouterr().err
    assert "work: 4/10" in said
    assert said.endswith("stopped after 1 min 20 s\n")


def test_what_an_earlier_run_did_counts_as_done_and_not_as_speed() -> None:
    task = PlainTask("work", 100, "problems", 90)
    task.started_at = time.monotonic() - 10
    task.advance(10)

    assert task.describe() == "  work: 100/100 problems, 1/s"


def test_work_without_an_end_has_no_time_left() -> None:
    task = PlainTask("work", None, "problems", 0)
    task.advance(5)

    assert "left" not in task.describe()


def test_bars_share_one_terminal_and_leave_it_clean() -> None:
    out = io.StringIO()
    bars = RichBars(Console(file=out, force_terminal=True, width=100))
    with track(bars, "outer [red]", 10, unit="problems") as outer, track(bars, "inner") as inner:
        outer.advance(3, note="[bold]x")
        inner.advance()
        bars.bars.refresh()
        shown = out.getvalue()

    assert "outer [red]" in shown
    assert "3/10 problems" in shown
    assert "note [bold]x" in shown
    assert bars.num_running == 0
    assert not bars.bars.tasks


def test_hostile_text_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    RichBars(Console(file=out, force_terminal=True, width=200)).say(HOSTILE)
    PlainLines().say(HOSTILE)

    for shown in (out.getvalue(), capsys.readouterr().err):
        assert "[red]⟨U+001B⟩[2Jowned⟨U+202E⟩[/red]" in shown
        assert "\x1b[2J" not in shown


def test_a_tree_is_drawn_in_place_as_it_grows_and_then_gone() -> None:
    out = io.StringIO()
    with TreeDrawing(QUESTION, Console(file=out, force_terminal=True, width=100, height=30)) as drawing:
        drawing.draw(lambda: grow_tree(1).tree)
        first = out.getvalue()
        drawing.draw(lambda: grow_tree(9).tree)
        too_soon = out.getvalue()
        drawing.drawn_at -= 1
        drawing.draw(lambda: grow_tree(900).tree)
        last = out.getvalue()[len(first) :]

    assert "1 step · 31 tokens · growing" in first
    assert too_soon == first
    assert "900 steps" in last
    assert last.count("\n") < 30, "no taller than the terminal"
    assert out.getvalue().endswith("\x1b[2K"), "it wipes its last line"


def test_a_tree_is_not_drawn_as_it_grows_where_nobody_looks() -> None:
    out = io.StringIO()
    with TreeDrawing(QUESTION, Console(file=out, width=100)) as drawing:
        drawing.draw(lambda: grow_tree(9).tree)

    assert out.getvalue() == ""


def test_a_tree_in_a_file_has_its_lines_whole_and_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = show_tree(50)
    print_tree(shown)
    lines = capsys.readouterr().out.split("\n")

    assert lines[0] == QUESTION
    assert max(map(len, lines)) > 80
    assert "\x1b" not in "".join(lines)
    assert sum(line[20:22] == "* " for line in lines) == len(shown.tree.list_path(shown.chosen))
