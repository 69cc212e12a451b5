"""One file at a time: `grade` its answers, run its code in the `sandbox`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ponderosa.cli.options import Quiet, Verbose
from ponderosa.errors import RequestError
from ponderosa.report.escape import show_controls


def grade(
    file: Annotated[Path, typer.Argument(help='A JSON Lines file whose rows have "gold" and "candidate".')],
    out: Annotated[Path, typer.Option("--out", help="Write the graded rows to this file, as JSON Lines.")],
    quiet: Quiet = False,
    _: Verbose = False,
) -> None:
    """Grade answers. Adds "equal", "reason" and "ms" to each row; keeps order and other keys.

    Exit code 1 if there are rows that cannot be graded: each is named, with its reason, and the others are graded.

    \b
    Example: ponderosa grade answers.jsonl --out graded.jsonl
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


def sandbox(
    file: Annotated[Path, typer.Argument(help="A Python file, run as one step.")],
    tier: Annotated[
        str | None, typer.Option("--tier", help="monty or cpython; default: chosen from the code.")
    ] = None,
    _: Verbose = False,
) -> None:
    """Run a file in the sandbox. Prints one JSON object: outcome, output, error, ms, tier.

    \b
    Example: ponderosa sandbox step.py --tier cpython
    """
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
