"""Asking a model: `solve` one question, `evaluate` on a suite."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ponderosa.cli.options import (
    Device,
    Dtype,
    Format,
    MaxTokens,
    Quiet,
    RewardModel,
    Samples,
    SearchParameters,
    Seed,
    Strategy,
    Temperature,
    Verbose,
)
from ponderosa.progress import Progress

UNGUIDED = {
    "beam": "it keeps the steps that the model finds likeliest, right or wrong, and a vote decides",
    "mcts": "every answer is worth the same to it, only failures teach it something, and a vote decides",
}
"""What a search goes by that can use a reward model and has none (docs/search.md)."""


def solve(
    model: Annotated[Path, typer.Argument(help="A model directory, such as runs/quickstart/models/sft.")],
    question: Annotated[str, typer.Argument(help="What to solve, in quotes.")],
    strategy: Strategy = "greedy",
    samples: Samples = 8,
    search: SearchParameters = None,
    reward_model: RewardModel = None,
    show_tree: Annotated[
        bool, typer.Option("--show-tree", help="Draw the search tree as it grows (beam, dvts, mcts).")
    ] = False,
    tree_page: Annotated[
        Path | None, typer.Option("--tree-page", help="Write the search tree to this file, as an HTML page.")
    ] = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 512,
    format: Format = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    _: Verbose = False,
) -> None:
    """Solve one question, showing each step and what it printed.

    \b
    Example: ponderosa solve runs/quickstart/models/sft "Tom has 3 apples. Ana has 4 more apples than Tom. How many apples does Ana have?"
    """
    from ponderosa.console import TreeDrawing, build_progress, print_tree
    from ponderosa.report.page import write_tree_page
    from ponderosa.report.terminal import escape_terminal
    from ponderosa.search.registry import check_grows_tree

    if show_tree or tree_page:
        check_grows_tree(strategy)
    parameters = _parse_search(strategy, samples, search, reward_model)
    _hint_at_reward_model(strategy, reward_model, build_progress())
    with (
        _load(model, device, dtype, format, reward_model) as reasoner,
        TreeDrawing(question) as drawing,
    ):
        solution = reasoner.solve(
            question,
            strategy=strategy,
            samples=samples,
            search=parameters,
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
            watch=drawing.draw if show_tree else None,
        )
    if show_tree and solution.tree:
        print_tree(solution.tree)
    if tree_page and solution.tree:
        write_tree_page(tree_page, solution.tree)
    for step in solution.steps:
        print(escape_terminal(step.text.strip("\n")))
        if step.outcome not in (None, "ok"):
            print(f"  ! {step.outcome}: {escape_terminal(step.observation or '')}")
        elif step.observation:
            print(f"  > {escape_terminal(step.observation)}")
    print(f"answer: {escape_terminal(solution.answer) if solution.answer is not None else 'none'}")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model directory, such as runs/quickstart/models/sft.")],
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="quickstart, quantities, gsm8k, svamp, math500, gym/NAME (all: `ponderosa list suites`) or FILE.jsonl.",
        ),
    ],
    strategy: Strategy = "greedy",
    samples: Samples = 8,
    search: SearchParameters = None,
    reward_model: RewardModel = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Most problems to draw; default: the suite's own number, else all."
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Set an option of the task, such as max_operations=4; may be repeated.",
        ),
    ] = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 512,
    format: Format = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the result rows to this file, as JSON.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Measure a model on a suite. Prints pass@k, majority@k or accuracy, tokens and truncation, each with its interval.

    \b
    Example: ponderosa evaluate runs/quickstart/models/sft --suite quickstart --limit 200
    """
    from ponderosa.artifacts import write_json
    from ponderosa.config import set_path
    from ponderosa.console import build_progress
    from ponderosa.report.terminal import render_rows

    options: dict[str, Any] = {}
    for assignment in assignments or []:
        set_path(options, assignment)
    parameters = _parse_search(strategy, samples, search, reward_model)
    progress = build_progress(quiet=quiet)
    _hint_at_reward_model(strategy, reward_model, progress)
    with _load(model, device, dtype, format, reward_model) as reasoner:
        rows = reasoner.evaluate(
            suite,
            strategy=strategy,
            samples=samples,
            search=parameters,
            limit=limit,
            options=options,
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
            progress=progress,
        )
    if json_out is not None:
        write_json(json_out, {"schema": 1, "rows": rows})
    print(render_rows(rows))


def _parse_search(
    strategy: str, samples: int, assignments: list[str] | None, reward_model: Path | None
) -> dict[str, Any]:
    """A strategy's parameters, looked over before any model is loaded."""
    from ponderosa.config import set_path
    from ponderosa.search.registry import check_reward_model, get_strategy

    parameters: dict[str, Any] = {}
    for assignment in assignments or []:
        set_path(parameters, assignment, option="--search")
    check_reward_model(get_strategy(strategy, samples, parameters), is_given=reward_model is not None)
    return parameters


def _hint_at_reward_model(strategy: str, reward_model: Path | None, progress: Progress) -> None:
    if reward_model is None and strategy in UNGUIDED:
        progress.say(f"{strategy} has no reward model: {UNGUIDED[strategy]}; --reward-model DIR gives it one")


@contextmanager
def _load(
    model: Path, device: str, dtype: str, format: str | None, reward_model: Path | None = None
) -> Iterator[Any]:
    from ponderosa.api import load

    with load(model, device=device, dtype=dtype, prompt_format=format, reward_model=reward_model) as reasoner:
        yield reasoner
