"""The command line. Heavy modules are imported inside commands, so `--help` answers at once.

Exit codes: 0 done; 1 the work failed; 2 the request was wrong; 130 and 143 interrupted, run again to continue.
"""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ponderosa.errors import PonderosaError, RequestError
from ponderosa.report.escape import show_controls

log = logging.getLogger("ponderosa")

app = typer.Typer(
    name="ponderosa",
    help="Grow small language models that reason: verified data, staged training, evidence you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
"""What the command line library returns, and shells report, for a program ended by Ctrl-C."""


class StderrHandler(logging.Handler):
    """Log lines made safe to look at, on whatever standard error is now: bars move it aside while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(show_controls(self.format(record)), file=sys.stderr)


def _show_debug(is_verbose: bool) -> bool:
    if is_verbose:
        log.setLevel(logging.DEBUG)
    return is_verbose


Seed = Annotated[int, typer.Option("--seed", help="Everything random derives from it.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0, help="Sampling temperature; 0 is greedy.")
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
        "--search", help="A parameter of the strategy: --search width=4, --search token_budget=2000."
    ),
]
RewardModel = Annotated[
    Path | None,
    typer.Option(
        "--reward-model", help="A reward model's directory (best_of_n, weighted_vote, beam, dvts, mcts)."
    ),
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"ponderosa {version('ponderosa')}")
        raise typer.Exit


@app.callback()
def _accept_common_options(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and end.", callback=_show_version),
    ] = False,
) -> None: ...


def main() -> NoReturn:
    """Entry point: runs a command and turns errors into exit codes."""
    signal.signal(signal.SIGTERM, _exit_on_term)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", handlers=[StderrHandler()])
    log.setLevel(logging.NOTSET)
    try:
        code = app(prog_name="ponderosa", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except PonderosaError as error:
        log.debug("where the error arose", exc_info=True)
        print(f"error: {show_controls(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        log.debug("where the error arose", exc_info=True)
        print(f"error: {show_controls(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if _is_usage_error(error):
            print(f"error: {show_controls(_explain_usage(error))}", file=sys.stderr)
            sys.exit(2)
        raise
    if code == INTERRUPTED:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
    sys.exit(code or 0)


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name (see `list recipes`) or a .yaml file.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: --set seed=1, --set stages.sft.epochs=2."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default: runs/RECIPE.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the stages; run nothing.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Sandbox and grader processes.")] = 2,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            help="Stages to run at once where none reads another: seeds, arms, evaluations beside training. They "
            "share out cores and workers; not on an accelerator, whose memory one stage may fill.",
        ),
    ] = 1,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track", help="Send training curves to tensorboard, wandb or trackio too; may be repeated."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Run a recipe. Finished stages are kept; a run killed anywhere continues when run again."""
    from ponderosa.console import build_progress
    from ponderosa.jobs import run_in_jobs
    from ponderosa.pipeline import RunOptions
    from ponderosa.planning import find_base, find_recipe, load_recipe
    from ponderosa.tracking import find_trackers

    trackers = find_trackers(track or [])
    path = find_recipe(recipe)
    loaded = load_recipe(path, assignments or [])
    base = find_base(path)
    out = out or Path("runs") / loaded.name
    if dry_run:
        _show_plan(loaded, base, out)
        return
    options = RunOptions(
        device=device,
        dtype=dtype,
        workers=workers,
        progress=build_progress(quiet=quiet),
        trackers=trackers,
    )
    summary = run_in_jobs(loaded, base, out, options, jobs)
    from ponderosa.report.page import write_report
    from ponderosa.report.terminal import render_run_table

    page = write_report(out)
    print(render_run_table(out))
    print(f"\nsummary {summary}\nreport  {page}")


@app.command()
def solve(
    model: Annotated[Path, typer.Argument(help="A model directory, such as runs/quickstart/models/sft.")],
    question: Annotated[str, typer.Argument(help="The question.")],
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
    """Solve one question, showing each step and what running it printed."""
    from ponderosa.console import TreeDrawing, print_tree
    from ponderosa.report.page import write_tree_page
    from ponderosa.report.terminal import escape_terminal
    from ponderosa.search.registry import check_grows_tree

    if show_tree or tree_page:
        check_grows_tree(strategy)
    parameters = _parse_search(strategy, samples, search, reward_model)
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


@app.command()
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
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most problems to draw.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the task: --set max_operations=4.")
    ] = None,
    seed: Seed = 0,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 512,
    format: Format = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the result rows to this file.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Measure a model on a suite: pass@k, majority@k or accuracy, tokens, truncation, each with its interval."""
    from ponderosa.artifacts import write_json
    from ponderosa.config import set_path
    from ponderosa.console import build_progress
    from ponderosa.report.terminal import render_rows

    options: dict[str, Any] = {}
    for assignment in assignments or []:
        set_path(options, assignment)
    parameters = _parse_search(strategy, samples, search, reward_model)
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
            progress=build_progress(quiet=quiet),
        )
    if json_out is not None:
        write_json(json_out, {"schema": 1, "rows": rows})
    print(render_rows(rows))


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help='JSON Lines with "gold" and "candidate".')],
    out: Annotated[Path, typer.Option("--out", help="Where to write the graded rows.")],
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Grade answers: adds "equal", "reason" and "ms" to each row; keeps order and other keys.

    Exit code 1 if there are rows that cannot be graded: each is named, with its reason, and the others are graded.
    """
    from ponderosa.console import build_progress
    from ponderosa.verify import grade_file

    graded = grade_file(file, out, progress=build_progress(quiet=quiet))
    for bad in graded.bad_lines:
        print(show_controls(f"not graded {bad.file}:{bad.line}: {bad.reason}"), file=sys.stderr)
    left_out = f", {len(graded.bad_lines)} more not graded" if graded.bad_lines else ""
    print(
        f"{graded.num_rows} rows, {graded.num_equal} equal, {graded.num_undecided} undecided{left_out}, written to {out}"
    )
    if graded.bad_lines:
        raise typer.Exit(1)


@app.command()
def sandbox(
    file: Annotated[Path, typer.Argument(help="A Python file, run as one step.")],
    tier: Annotated[
        str | None, typer.Option("--tier", help="monty or cpython; default: chosen from the code.")
    ] = None,
    _: Verbose = False,
) -> None:
    """Run a file in the sandbox; prints one JSON object: outcome, output, error, ms, tier."""
    from ponderosa.config import suggest, suggest_path
    from ponderosa.sandbox import TIERS, Sandbox

    if tier is not None and tier not in TIERS:
        raise RequestError(f"no sandbox tier {tier!r}{suggest(tier, TIERS)}")
    try:
        code = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 text: {error}") from None
    except OSError as error:
        near = "" if file.exists() else suggest_path(file)
        raise RequestError(f"cannot read {file}: {error.strerror or error}{near}") from None
    with Sandbox(tiers=(tier,) if tier else TIERS, workers=1) as box:
        execution = box.run_steps([code])[0]
    shown = {
        "outcome": execution.outcome,
        "output": execution.output,
        "error": execution.error,
        "ms": round(execution.ms, 3),
        "tier": execution.tier,
    }
    print(json.dumps(shown))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, for example runs/quickstart.")],
    _: Verbose = False,
) -> None:
    """Write the report of a run: one self-contained HTML page."""
    from ponderosa.config import suggest_path
    from ponderosa.report.page import write_report

    if not run_dir.exists():
        raise RequestError(f"no such run folder: {run_dir}{suggest_path(run_dir)}")
    if not (run_dir / "stages").is_dir():
        is_record = (run_dir / "summary.json").is_file()
        what = (
            "a record: what a run came to, without its stages"
            if is_record
            else "no run folder: it has no stages"
        )
        raise RequestError(
            f"{run_dir} is {what}; a report is made of a run's stages, by default in runs/RECIPE "
            "(`ponderosa run RECIPE` makes one)"
        )
    print(write_report(run_dir))


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="tasks, suites, strategies, engines, stages or recipes.")],
) -> None:
    """List what there is to choose from."""
    from ponderosa.catalogue import CATALOGUES
    from ponderosa.config import suggest

    if what not in CATALOGUES:
        raise RequestError(f"nothing is listed under {what!r}{suggest(what, CATALOGUES)}")
    for name, description in CATALOGUES[what]().items():
        print(f"{name:28} {description}".rstrip())


@app.command()
def doctor() -> None:
    """Say what this machine can do: devices, sandbox tiers, optional packages, benchmark data."""
    from ponderosa.catalogue import examine_machine

    for name, finding in examine_machine().items():
        print(f"{name:18} {finding}")


def _show_plan(recipe: Any, base: Path, out: Path) -> None:
    """The stages of a recipe, what they cost at most, and what is missing."""
    from ponderosa.pipeline import check_data, estimate_stages, explain_stage, find_missing
    from ponderosa.planning import label_stages, plan_runs
    from ponderosa.report.plan import PlanLine, render_plan

    stages = plan_runs(recipe, base)
    check_data(stages, base, out)
    lines = []
    for stage, name, cost in zip(
        stages, label_stages(stages), estimate_stages(stages, base, out), strict=True
    ):
        state = "finished" if (out / "stages" / stage.folder_name / "DONE").exists() else "to do"
        costs = (cost.train_tokens, cost.sampled_tokens, cost.flops)
        lines.append(PlanLine(name, stage.kind, state, stage.folder_name, costs))
        log.debug(explain_stage(stage, out))
    print("\n".join([render_plan(lines), *find_missing(stages)]))


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


@contextmanager
def _load(
    model: Path, device: str, dtype: str, format: str | None, reward_model: Path | None = None
) -> Iterator[Any]:
    from ponderosa.api import load

    with load(model, device=device, dtype=dtype, prompt_format=format, reward_model=reward_model) as reasoner:
        yield reasoner


def _exit_on_term(*_: object) -> NoReturn:
    print("terminated; the same command continues where this one stopped", file=sys.stderr)
    sys.exit(143)


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _explain_usage(error: Any) -> str:
    """What the command line library found wrong, what it takes instead, and where the rest is said."""
    said = error.format_message()
    sentences = [said if said.endswith((".", "?")) else f"{said}."]
    if meaning := getattr(getattr(error, "param", None), "help", None):
        sentences.append(f"It takes: {meaning}")
    context = getattr(error, "ctx", None)
    if commands := getattr(getattr(context, "command", None), "commands", None):
        sentences.append(f"Commands: {', '.join(commands)}.")
    if context is not None:
        sentences.append(f"See `{context.command_path} --help`.")
    return " ".join(sentences)
