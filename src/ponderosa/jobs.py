"""Several stages of a run at once, each in a process of its own.

A stage begins, in the order of the plan, as soon as what it reads is finished. Its process is told which one as JSON,
plans the recipe again and runs it with its share of the threads and sandbox workers; what Python prints there goes
behind the stage's name. When a stage fails or this process is interrupted, the others are killed, to be continued by
the next run.

A stage's process ends when its standard input does, so it does not outlive this one. Until then it holds the run's
folder as this one does, so nobody works beside it. Memory is not shared out.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from ponderosa.config import parse_config
from ponderosa.console import NamedLines, PlainLines
from ponderosa.errors import ConfigError, PonderosaError, RequestError, WorkError
from ponderosa.pipeline import Run, RunOptions, run_recipe, run_stage
from ponderosa.planning import Recipe, plan_runs
from ponderosa.progress import SILENT
from ponderosa.tracking import find_trackers

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05

# A terminal's Ctrl-C reaches all its processes: the first one answers it, and kills the others.
_SOURCE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = sys.argv[1:]
from ponderosa.jobs import main
main()
"""


def run_in_jobs(recipe: Recipe, base: Path, out: Path, options: RunOptions, num_jobs: int) -> Path:
    """`run_recipe` with up to `num_jobs` stages at once; with one, all in this process.

    Raises as `run_recipe` does, and ConfigError for several jobs on an accelerator.
    """
    if num_jobs == 1:
        return run_recipe(recipe, base, out, options)
    from ponderosa.engines.loading import select_device

    if (device := select_device(options.device)) != "cpu":
        raise ConfigError(
            f"{num_jobs} jobs on {device!r}, whose memory one stage may fill; give --jobs 1, or --device cpu"
        )
    return run_recipe(recipe, base, out, options, partial(run_side_by_side, num_jobs=num_jobs))


def select_startable(
    waiting: Mapping[str, Collection[str]], running: Collection[str], num_jobs: int
) -> list[str]:
    """The stages that may begin now: the first in the plan that read nothing unfinished.

    waiting: what each stage not yet begun reads, in the order of the plan.
    """
    unfinished = {*waiting, *running}
    ready = [stage for stage, reads in waiting.items() if unfinished.isdisjoint(reads)]
    return ready[: num_jobs - len(running)]


def run_side_by_side(run: Run, num_jobs: int) -> None:
    """Every unfinished stage, up to `num_jobs` at once. Raises the error of the first that fails."""
    told = _describe_run(run, num_jobs)
    to_do = {stage.folder_name: stage for stage in run.stages if not run.skip(stage)}
    waiting = {folder: stage.inputs.values() for folder, stage in to_do.items()}
    running: dict[str, subprocess.Popen[bytes]] = {}
    with TemporaryFile() as errors:
        try:
            while waiting or running:
                for folder in select_startable(waiting, running, num_jobs):
                    del waiting[folder]
                    run.begin(to_do[folder])
                    running[folder] = _start({**told, "stage": folder, "name": run.names[folder]}, errors)
                for folder in [folder for folder, process in running.items() if process.poll() is not None]:
                    _check(running[folder], run.names[folder], errors)
                    _end(running.pop(folder))
                    run.finish(to_do[folder])
                    run.options.progress.say(f"{run.names[folder]}: finished")
                time.sleep(LOOK_EVERY_S)
        finally:
            for process in running.values():
                _end(process)


def _describe_run(run: Run, num_jobs: int) -> dict[str, Any]:
    """What the processes of all stages are told."""
    import torch

    options = run.options
    workers = max(1, options.workers // num_jobs)
    return {
        "recipe": run.recipe.model_dump(mode="json", exclude_unset=True),
        "base": str(run.base),
        "out": str(run.out),
        "options": {"device": options.device, "dtype": options.dtype, "workers": workers},
        "trackers": [tracker.name for tracker in options.trackers],
        "is_quiet": options.progress is SILENT,
        "log_level": log.getEffectiveLevel(),
        "num_threads": max(1, torch.get_num_threads() // num_jobs),
        "lock": run.lock,
    }


def _start(job: Mapping[str, Any], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a stage's process; it writes the error it ends with to `errors`."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job["num_threads"]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _SOURCE, *sys.path],
        stdin=subprocess.PIPE,
        stdout=errors,
        env={**os.environ, **threads},
        pass_fds=[job["lock"]],
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, and its status says how
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    return process


def _check(process: subprocess.Popen[bytes], name: str, errors: IO[bytes]) -> None:
    """Raises the error that a process ended with, if it did."""
    if status := process.returncode:
        errors.seek(0)
        said = (
            errors.read().decode().strip()
            or f"{name}: its process ended with status {status}, the stage unfinished"
        )
        raise (RequestError if status == RequestError.exit_code else WorkError)(said)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()


def main() -> None:
    """A stage's process. A line of JSON on standard input says which; standard output takes the error it ends with."""
    errors = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    os.set_inheritable(job["lock"], False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = TextIOWrapper(NamedLines(job["name"]), "utf-8", "replace", write_through=True)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("ponderosa").setLevel(job["log_level"])
    try:
        _run_job(job)
    except (PonderosaError, OSError) as error:
        log.debug("where the error arose", exc_info=True)
        with errors:
            print(f"{job['name']}: {error}", file=errors)
        sys.exit(error.exit_code if isinstance(error, PonderosaError) else WorkError.exit_code)


def _run_job(job: Mapping[str, Any]) -> None:
    base, out = Path(job["base"]), Path(job["out"])
    recipe = parse_config(Recipe, job["recipe"], where="recipe")
    planned = {stage.folder_name: stage for stage in plan_runs(recipe, base)}
    if job["stage"] not in planned:
        raise RequestError(
            "a file or code that the recipe names has changed since the run began; run it again"
        )
    progress = SILENT if job["is_quiet"] else PlainLines()
    options = RunOptions(**job["options"], progress=progress, trackers=find_trackers(job["trackers"]))
    run_stage(planned[job["stage"]], base, out, options)


def _end_with_parent() -> None:
    """End at once when standard input does: whoever held its other end is gone."""
    os.read(0, 1)
    os._exit(1)
