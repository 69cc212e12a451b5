"""Stages side by side: what may begin when, the same results, and that no process is left behind."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.artifacts import lock_folder, read_json
from ponderosa.console import NamedLines, PlainLines
from ponderosa.errors import ConfigError, PonderosaError, RequestError, RunLocked, WorkError
from ponderosa.jobs import run_in_jobs, select_startable
from ponderosa.pipeline import RunOptions
from ponderosa.planning import Recipe, load_recipe, plan_runs
from test_cli import call
from test_kill_resume import COMMAND, read_table
from tiny_runs import (
    EVALUATE_BASE,
    EVALUATE_SFT,
    GROWN,
    OPTIONS,
    PROBLEMS,
    SFT,
    WHOLE,
    build_recipe,
    find_stage,
    run_tiny,
    save_foreign_model,
)

TASKS = """
import os, signal, sys, time
from pathlib import Path
from ponderosa.errors import RequestError, WorkError
from ponderosa.records import Problem, Step
from ponderosa.tasks.worked import WorkedSolution

HERE = Path(__file__).parent

class Coins:
    def __init__(self, name, act):
        self.name, self.act = name, act
    def generate(self, count, seed, split):
        (HERE / f".{self.name}").write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
        (HERE / f".{self.name}").rename(HERE / self.name)
        self.act()
        for n in range(count):
            yield Problem(question=f"Double {n}", answer=str(2 * n))
    def work_out(self, problem):
        code = f"print({problem.answer})"
        return WorkedSolution((Step(text=code, code=code),), f" #### {problem.answer}")

def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.02)

def end_after(name, error):
    wait_for(name)
    print("about to fail")
    raise error

def interrupt(number):
    wait_for("slow")
    os.kill(os.getppid(), number)
    wait_for("go")

slow = Coins("slow", lambda: wait_for("go"))
other = Coins("other", lambda: wait_for("go"))
broken = Coins("broken", lambda: end_after("slow", WorkError("it broke")))
refused = Coins("refused", lambda: end_after("slow", RequestError("it is refused")))
faulty = Coins("faulty", lambda: end_after("slow", KeyError("a fault")))
ctrl_c = Coins("ctrl_c", lambda: interrupt(signal.SIGINT))
term = Coins("term", lambda: interrupt(signal.SIGTERM))
"""


def draw(task: str) -> dict[str, Any]:
    """A stage that asks one of TASKS for problems."""
    return {"name": task, "use": "solutions", "sources": [{"task": f"tasks.py:{task}", "count": 3}]}


def write_recipe(folder: Path, *tasks: str) -> Path:
    (folder / "tasks.py").write_text(TASKS)
    (folder / "r.yaml").write_text(json.dumps({"name": "r", "stages": [draw(task) for task in tasks]}))
    return folder / "r.yaml"


def run_jobs(path: Path, num_jobs: int = 2, options: RunOptions = OPTIONS) -> Path:
    return run_in_jobs(load_recipe(path), path.parent, path.parent / "run", options, num_jobs)


def is_gone(folder: Path, task: str) -> bool:
    """Whether the process that drew a task's problems has ended."""
    pid = int((folder / task).read_text().split()[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What runs in this process has the one thread that it would have beside others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What may begin now


@st.composite
def plans(draw: st.DrawFn) -> dict[str, set[str]]:
    """What each stage reads; it reads earlier ones alone."""
    names = [f"stage-{n}" for n in range(draw(st.integers(1, 8)))]
    return {name: draw(st.sets(st.sampled_from(names[:n]))) if n else set() for n, name in enumerate(names)}


@given(plans(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_stages_begin_when_what_they_read_is_finished_and_never_too_many_at_once(
    plan: dict[str, set[str]], num_jobs: int, order: random.Random
) -> None:
    waiting, running, finished = dict(plan), list[str](), list[str]()
    while waiting or running:
        begun = select_startable(waiting, running, num_jobs)
        for stage in begun:
            assert waiting.pop(stage) <= set(finished)
        running += begun
        assert 0 < len(running) <= num_jobs
        is_held_up = all(not reads <= set(finished) for reads in waiting.values())
        assert len(running) == num_jobs or is_held_up
        finished.append(running.pop(order.randrange(len(running))))

    assert sorted(finished) == sorted(plan)


@given(plans())
def test_one_job_follows_the_plan(plan: dict[str, set[str]]) -> None:
    waiting, begun = dict(plan), list[str]()
    while waiting:
        begun += select_startable(waiting, (), 1)
        del waiting[begun[-1]]

    assert begun == list(plan)


def test_the_first_of_the_plan_begin_first() -> None:
    waiting = {"base": set(), "sft": {"base"}, "evaluate-base": {"base"}, "other": set[str]()}

    assert select_startable(waiting, (), 2) == ["base", "other"]
    del waiting["base"], waiting["other"]
    assert select_startable(waiting, ["base"], 2) == []
    assert select_startable(waiting, ["other"], 2) == ["sft"]
    assert select_startable(waiting, [], 2) == ["sft", "evaluate-base"]


def test_a_recipe_told_as_json_is_planned_the_same() -> None:
    arms = [{"arm": "plain"}, {"arm": "long", "set": {"stages.sft.epochs": 2}, "until": "sft"}]
    for recipe in (
        build_recipe(*WHOLE, seeds=[0, 1], sweep=arms),
        build_recipe(PROBLEMS, seed=3, headline={"suite": "quantities"}),
    ):
        told = Recipe.model_validate_json(json.dumps(recipe.model_dump(mode="json", exclude_unset=True)))
        assert plan_runs(told, Path()) == plan_runs(recipe, Path())


def test_several_jobs_on_an_accelerator_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    with pytest.raises(ConfigError, match="give --jobs 1, or --device cpu"):
        run_jobs(write_recipe(tmp_path, "slow"), options=RunOptions(device="cuda"))

    assert not (tmp_path / "run").exists()


# What is run


@pytest.mark.usefixtures("one_thread")
def test_two_seeds_side_by_side_have_the_summary_of_one_after_the_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    imported = {"name": "base", "use": "import_model", "path": str(save_foreign_model(tmp_path / "model"))}
    recipe = build_recipe(imported, EVALUATE_BASE, seeds=[0, 1])
    out = tmp_path / "run"
    run_tiny(out, *recipe.stages, seeds=[0, 1])
    expected = read_table(out)
    for done in out.glob("stages/evaluate-*/DONE"):
        done.unlink()

    run_in_jobs(recipe, tmp_path, out, RunOptions(device="cpu", workers=1, progress=PlainLines()), 2)

    assert read_table(out) == expected
    lines = capfd.readouterr().err.splitlines()
    begun = [lines.index(f"[{n}/4] evaluate-base, seed {n // 2 - 1} (evaluate)") for n in (2, 4)]
    ended = [lines.index(f"evaluate-base, seed {seed}: finished") for seed in (0, 1)]
    assert max(begun) < min(ended)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_whole_recipe_side_by_side_leaves_what_it_leaves_one_after_the_other(tmp_path: Path) -> None:
    arms = [{"arm": "plain"}, {"arm": "long", "set": {"stages.sft.epochs": 2}}]
    recipe = build_recipe(*GROWN, {**SFT, "model": "base"}, EVALUATE_BASE, EVALUATE_SFT, sweep=arms)
    for num_jobs, run in enumerate(("one", "two"), 1):
        run_in_jobs(recipe, tmp_path, tmp_path / run, OPTIONS, num_jobs)

    assert read_table(tmp_path / "two") == read_table(tmp_path / "one")
    files = [
        sorted(path.relative_to(tmp_path / run) for path in (tmp_path / run).rglob("*"))
        for run in ("one", "two")
    ]
    assert files[0] == files[1]


def test_each_stage_has_its_share_of_the_threads(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        run_jobs(write_recipe(tmp_path, "slow"))
    finally:
        torch.set_num_threads(before)

    pid, num_threads = (tmp_path / "slow").read_text().split()
    assert (int(pid) != os.getpid(), num_threads) == (True, "2")
    assert read_json(find_stage(tmp_path / "run", "slow") / "manifest.json")["counts"]["kept"] == 3


def test_what_a_stages_process_prints_goes_behind_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    lines = NamedLines("sft, seed 1")
    for text in ("one\ntw", "o\x1b[2J\n", "unfinished"):
        lines.write(text.encode())

    assert capfd.readouterr().err == "sft, seed 1: one\nsft, seed 1: two⟨U+001B⟩[2J\n"


# How it ends


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("broken", WorkError, "^broken: it broke$"),
        ("refused", RequestError, "^refused: it is refused$"),
        ("faulty", WorkError, "^faulty: its process ended with status 1, the stage unfinished$"),
    ],
)
def test_a_stage_that_fails_stops_the_others_and_begins_nothing_new(
    task: str, kind: type[PonderosaError], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, "slow", task, "other")

    with pytest.raises(kind, match=message):
        run_jobs(recipe)

    assert is_gone(tmp_path, "slow")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob("run/stages/*/DONE"))
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"{task}: about to fail"
    assert (f"{task}: KeyError: 'a fault'" in said) == (task == "faulty")


@pytest.mark.parametrize(("task", "expected"), [("ctrl_c", 130), ("term", 143)])
def test_an_interrupted_run_stops_every_stage(
    task: str,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path, "slow", task)
    command = ["run", recipe, "--out", tmp_path / "run", "--jobs", "2", "--device", "cpu", "-q"]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, _, errors = call(command, monkeypatch, capsys)
    finally:
        signal.signal(signal.SIGINT, handler)

    assert code == expected
    assert "the same command goes on from what was saved last" in errors
    assert is_gone(tmp_path, "slow")
    assert is_gone(tmp_path, task)


def test_no_stage_outlives_a_killed_run_and_the_next_continues_it(tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path, "slow", "other"), tmp_path / "run"
    command = [*COMMAND, "run", recipe, "--out", out, "--jobs", "2", "--device", "cpu", "-q"]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: (tmp_path / "slow").exists() and (tmp_path / "other").exists())
        stopped = int((tmp_path / "other").read_text().split()[0])
        os.kill(stopped, signal.SIGSTOP)
        parent.kill()
    with pytest.raises(RunLocked), lock_folder(out):  # by the one that cannot end yet
        pass

    os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: can_lock(out))
    (tmp_path / "go").touch()
    run_jobs(recipe)

    assert len(list(out.glob("stages/*/DONE"))) == 2


def can_lock(folder: Path) -> bool:
    try:
        with lock_folder(folder):
            return True
    except RunLocked:
        return False


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
