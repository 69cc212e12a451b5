"""`solve --show-tree` and `--tree-page`: what they show, where, and which strategies refuse."""

from pathlib import Path

import pytest

from ponderosa.cli.models import UNGUIDED
from ponderosa.search.registry import CLASSES
from test_cli import Cli, cli, model

__all__ = ["cli", "model"]
QUESTION = "Tom has 3 apples. How many apples has Tom?"
SMALL = ("--samples", "4", "--max-tokens", "12")


def test_a_tree_is_printed_once_where_there_is_no_terminal(model: Path, cli: Cli) -> None:
    code, output, errors = cli("solve", model, QUESTION, "--strategy", "mcts", "--show-tree", *SMALL)

    assert code == 0
    assert errors.count("has no reward model") == errors.count("\n") == 1
    assert output.count(QUESTION) == 1
    assert output.count("mcts · ") == 1
    assert "└ " in output
    assert "stopped: " in output
    assert output.splitlines()[-1].startswith("answer: ")
    assert all(char == "\n" or char.isprintable() for char in output), ascii(output)


def test_a_search_that_could_use_a_reward_model_and_has_none_says_what_it_goes_by() -> None:
    assert set(UNGUIDED) == {name for name, cls in CLASSES.items() if cls.reward_model == "optional"}


def test_a_tree_is_written_as_a_page(model: Path, cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "tree.html"
    code, output, _ = cli("solve", model, QUESTION, "--strategy", "beam", "--tree-page", page, *SMALL)

    assert code == 0
    assert "└ " not in output
    text = page.read_text()
    assert QUESTION in text
    assert 'class="step' in text


def test_a_strategy_without_a_tree_shows_none(model: Path, cli: Cli) -> None:
    code, output, _ = cli("solve", model, QUESTION, *SMALL)
    assert code == 0
    assert "└ " not in output


@pytest.mark.parametrize("option", [["--show-tree"], ["--tree-page", "tree.html"]])
@pytest.mark.parametrize("strategy", ["greedy", "majority"])
def test_a_strategy_that_grows_no_tree_refuses_by_name(option: list[str], strategy: str, cli: Cli) -> None:
    code, output, errors = cli("solve", "nowhere", QUESTION, "--strategy", strategy, *option)

    assert (code, output) == (2, "")
    assert f"strategy '{strategy}' grows no tree to show; use one that does: beam, dvts, mcts" in errors
