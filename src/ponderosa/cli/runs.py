"""Recipes and the folders they are run in: `run` and `report`."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ponderosa.cli.options import Device, Dtype, Quiet, Verbose
from ponderosa.errors import RequestError

log = logging.getLogger("ponderosa")


def run(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name (all: `ponderosa list recipes`) or a .yaml file.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Set a value of the recipe, such as seed=1 or stages.sft.epochs=2; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder; default: runs/RECIPE.")] = None,
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
            "--track",
            metavar="TRACKER",
            help="Send training curves to tensorboard, wandb or trackio too; may be repeated.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Run a recipe. Finished stages are kept; a run killed anywhere continues when run again.

    \b
    Example: ponderosa run quickstart --set seed=1 --out runs/seed-1
    """
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


def report(
    run_dir: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.")],
    _: Verbose = False,
) -> None:
    """Write the report of a run: one self-contained HTML page. Prints where it is.

    \b
    Example: ponderosa report runs/quickstart
    """
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
