"""A run killed anywhere continues to the same table.

PONDEROSA_KILLS sets how many times the slow test kills each recipe (20); PONDEROSA_KILL_SEED draws other moments;
PONDEROSA_KILL_RECIPES names other recipes, separated by commas.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ponderosa.artifacts import read_json
from ponderosa.planning import RECIPES, load_recipe, plan_runs

KILLED = ("quickstart-tiny", "self-evolution-tiny")
"""The path from nothing to a policy, and the rounds that go on from there."""
CHOSEN = tuple(os.environ.get("PONDEROSA_KILL_RECIPES", ",".join(KILLED)).split(","))
COMMAND = [sys.executable, "-c", "from ponderosa.cli import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SECONDS = ("stage_s", "eval_s")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills process groups")


def start_run(recipe: str, out: Path) -> subprocess.Popen[str]:
    """A recipe in a process group of its own."""
    arguments = [*COMMAND, "run", recipe, "--out", str(out), "--device", "cpu"]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )


def finish_run(recipe: str, out: Path) -> tuple[float, float]:
    """Run to the end; seconds until the first stage began, and until the end."""
    began = time.monotonic()
    with start_run(recipe, out) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        startup_s = time.monotonic() - began
        rest = process.stderr.read()
    assert process.returncode == 0, first + rest
    return startup_s, time.monotonic() - began


def kill_run(recipe: str, out: Path, after_s: float) -> bool:
    """Kill the run's whole process group after so long; False if it had ended by then."""
    process = start_run(recipe, out)
    try:
        _, stderr = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, stderr
    return False


def read_table(out: Path) -> dict[str, Any]:
    """The summary without its seconds, and with what every training step and stage reported."""
    summary = read_json(out / "summary.json")
    for row in summary["rows"]:
        for column in (*SECONDS, "run"):
            del row[column]
    manifests = {}
    for name in summary["stages"]:
        manifest = read_json(out / "stages" / name / "manifest.json")
        del manifest["ledger"]["seconds"]
        manifests[name] = manifest
    return {**summary, "manifests": manifests}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CHOSEN)
def test_a_run_killed_at_random_moments_ends_in_the_same_table(recipe: str, tmp_path: Path) -> None:
    num_kills = int(os.environ.get("PONDEROSA_KILLS", "20"))
    moments = random.Random(int(os.environ.get("PONDEROSA_KILL_SEED", "0")))
    startup_s, whole_s = finish_run(recipe, tmp_path / "left-alone")
    expected = read_table(tmp_path / "left-alone")
    num_killed = num_finished = 0

    while num_killed < num_kills:
        out = tmp_path / f"killed-{num_finished}"
        # At most a quarter of a whole run, so that each is killed several times over before it ends. Less would often
        # be over before training has saved anything, which it does once a minute.
        if kill_run(recipe, out, after_s=moments.uniform(0.8 * startup_s, max(startup_s, whole_s / 4))):
            num_killed += 1
        else:
            assert read_table(out) == expected, f"after {num_killed} kills"
            num_finished += 1
    finish_run(recipe, tmp_path / f"killed-{num_finished}")

    assert read_table(tmp_path / f"killed-{num_finished}") == expected


def test_among_the_recipes_that_are_killed_is_one_that_searches_with_a_reward_model() -> None:
    stages = [
        stage for name in KILLED for stage in plan_runs(load_recipe(RECIPES / f"{name}.yaml", ()), Path())
    ]
    searches: list[Any] = [stage.config for stage in stages if stage.kind == "search"]
    assert any(config.reward_model is not None for config in searches)


WORKERS = """
import time
from ponderosa.sandbox import Sandbox
from ponderosa.verify import Grader
sandbox, grader = Sandbox(workers=1), Grader(num_workers=1)
sandbox.run_steps(["print(1)"]), sandbox.run_steps(["import statistics", "print(statistics.mean([1, 2]))"])
grader.pool.ask_many([("x", "y")])
print("ready", flush=True)
time.sleep(600)
"""


def list_descendants(pid: int) -> set[int]:
    """Process ids of everything a process has started, directly or not."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_workers_end_when_their_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", WORKERS], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    workers = list_descendants(owner.pid)

    owner.kill()
    owner.wait()
    owner.stdout.close()

    assert len(workers) >= 3
    deadline = time.monotonic() + 10
    while alive := {pid for pid in workers if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, f"{len(alive)} of {len(workers)} workers outlive their owner"
        time.sleep(0.05)
