"""Options that several commands take, each with one name, one meaning and one help text."""

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("ponderosa")


def _show_debug(is_verbose: bool) -> bool:
    if is_verbose:
        log.setLevel(logging.DEBUG)
    return is_verbose


Seed = Annotated[int, typer.Option("--seed", help="What everything random derives from.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        help="Sampling temperature, 0 for the likeliest token; default: 0.7, except in greedy.",
    ),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", min=1, help="Most new tokens of a solution, observations included.")
]
Format = Annotated[str | None, typer.Option("--format", help="Prompt format; default: the model's own.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but the result.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Say what is done and why; show where an error arose.", callback=_show_debug
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        "--strategy",
        help="greedy, sample, majority, best_of_n, weighted_vote, beam, dvts or mcts (docs/search.md).",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", min=1, help="Solutions per problem; candidate steps (beam, dvts), rollouts (mcts)."
    ),
]
SearchParameters = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="PATH=VALUE",
        help="Set a parameter of the strategy, such as width=4 or token_budget=2000; may be repeated.",
    ),
]
RewardModel = Annotated[
    Path | None,
    typer.Option(
        "--reward-model",
        help="A reward model's directory (best_of_n, weighted_vote, beam, dvts, mcts).",
    ),
]
