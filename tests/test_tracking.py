"""Experiment trackers: what is sent, once each, under which name; and that they never get in the way."""

import logging
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ponderosa.errors import ConfigError
from ponderosa.pipeline import RunOptions, run_recipe
from ponderosa.tracking import TRACKERS, CurveName, find_trackers, flatten, track_stage
from ponderosa.training.loop import FixedBatches, train
from tiny_runs import PROBLEMS, SFT, build_recipe, find_stage, save_foreign_model
from tiny_training import build_run


class FakeTracker:
    """Keeps curves by id, as a tracker's server would; every process that asks for one is another `open`."""

    name = "fake"

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.curves: dict[str, FakeCurve] = {}
        self.opened: list[tuple[str, str | None, int]] = []

    def open(self, name: CurveName, *, id: str | None, step: int) -> "FakeCurve":
        self.opened.append((str(name), id, step))
        curve = self.curves.get(id or "") or FakeCurve(f"id-{len(self.curves)}", self)
        self.curves[curve.id] = curve
        return curve


class FakeCurve:
    def __init__(self, id: str, tracker: FakeTracker) -> None:
        self.id, self.tracker = id, tracker
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.num_closed = 0

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if step == self.tracker.fails_at:
            raise ConnectionError("no route to the tracker")
        self.sent.append((step, dict(numbers)))

    def close(self) -> None:
        self.num_closed += 1
        if self.tracker.fails_at is not None:
            raise ConnectionError("still no route")


class Unreachable:
    """Cannot even be opened."""

    name = "unreachable"

    def open(self, name: CurveName, *, id: str | None, step: int) -> FakeCurve:
        raise RuntimeError("no API key")


class Killed(BaseException):
    """Stands for SIGKILL."""


def list_steps(curve: FakeCurve) -> list[int]:
    return [step for step, _ in curve.sent]


def build_stage(tmp_path: Path) -> Path:
    folder = tmp_path / "quickstart" / "stages" / "rl-0a1b"
    folder.mkdir(parents=True)
    return folder


def test_numbers_in_mappings_are_flattened_and_everything_else_is_left_out() -> None:
    values = {"loss": 0.5, "kept": 3, "is_last": True, "note": "text", "gap": None, "list": [1]}
    rewards = {"correctness": 1.0, "rewards.py:short": {"mean": 0.25}}
    expected = {"loss": 0.5, "kept": 3, "rewards/correctness": 1.0, "rewards/rewards.py:short/mean": 0.25}
    assert flatten({**values, "rewards": rewards}) == expected


def test_every_line_is_sent_with_its_step_to_a_curve_named_by_run_and_stage(tmp_path: Path) -> None:
    tracker = FakeTracker()
    with track_stage([tracker], build_stage(tmp_path)) as observe:
        observe({"step": 1, "loss": 2.0, "rewards": {"correctness": 0.5}})
        observe({"step": 2, "loss": 1.0})
    assert tracker.opened == [("quickstart/rl-0a1b", None, 1)]
    [curve] = tracker.curves.values()
    assert curve.sent == [(1, {"loss": 2.0, "rewards/correctness": 0.5}), (2, {"loss": 1.0})]
    assert curve.num_closed == 1


def test_a_stage_that_trains_nothing_opens_nothing(tmp_path: Path) -> None:
    tracker = FakeTracker()
    with track_stage([tracker], build_stage(tmp_path)):
        pass
    assert tracker.opened == []


def test_a_killed_run_goes_on_with_its_curve_and_sends_no_step_twice(tmp_path: Path) -> None:
    folder = build_stage(tmp_path)
    tracker = FakeTracker()
    _, batches, config = build_run()
    assert len(batches) > 3

    def train_on(dies_at: int | None = None) -> None:
        with track_stage([tracker], folder) as send:

            def observe(line: Mapping[str, Any]) -> None:
                send(line)
                if line["step"] == dies_at:
                    raise Killed

            train(build_run()[0], FixedBatches(batches), config, folder=folder, seed=0, observe=observe)

    with pytest.raises(Killed):
        train_on(dies_at=3)
    train_on()
    train_on()

    assert tracker.opened == [("quickstart/rl-0a1b", None, 1), ("quickstart/rl-0a1b", "id-0", 4)]
    assert list_steps(tracker.curves["id-0"]) == [*range(1, len(batches) + 1)]


def test_a_tracker_asked_for_later_gets_the_steps_before_it_too(tmp_path: Path) -> None:
    folder = build_stage(tmp_path)
    model, batches, config = build_run()
    train(model, FixedBatches(batches), config, folder=folder, seed=0)
    tracker = FakeTracker()
    with track_stage([tracker], folder) as observe:
        train(build_run()[0], FixedBatches(batches), config, folder=folder, seed=0, observe=observe)
    assert list_steps(tracker.curves["id-0"]) == [*range(1, len(batches) + 1)]


def test_a_tracker_that_fails_warns_once_and_stops_neither_training_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, sound = FakeTracker(fails_at=3), FakeTracker()
    failing.name = "failing"
    with track_stage([failing, Unreachable(), sound], build_stage(tmp_path)) as observe:
        for step in range(1, 7):
            observe({"step": step, "loss": 1.0})
    assert list_steps(failing.curves["id-0"]) == [1, 2]
    assert list_steps(sound.curves["id-0"]) == [1, 2, 3, 4, 5, 6]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "unreachable failed" in warnings[0]
    assert "no API key" in warnings[0]
    assert "failing failed and gets no more of quickstart/rl-0a1b (sent up to step 2)" in warnings[1]


def test_what_a_failing_tracker_missed_is_sent_when_the_run_is_continued(tmp_path: Path) -> None:
    folder = build_stage(tmp_path)
    tracker = FakeTracker(fails_at=2)
    for _ in range(2):
        with track_stage([tracker], folder) as observe:
            for step in (1, 2, 3):
                observe({"step": step})
        tracker.fails_at = None
    assert list_steps(tracker.curves["id-0"]) == [1, 2, 3]


def test_a_note_torn_by_a_power_cut_begins_a_new_curve(tmp_path: Path) -> None:
    folder = build_stage(tmp_path)
    (folder / "tracked-fake.json").write_text('{"id": "id')
    tracker = FakeTracker()
    with track_stage([tracker], folder) as observe:
        observe({"step": 1})
    assert tracker.opened == [("quickstart/rl-0a1b", None, 1)]


def test_a_recipe_is_tracked_in_the_same_stages_and_keeps_no_notes(tmp_path: Path) -> None:
    tracker = FakeTracker()
    base = save_foreign_model(tmp_path / "foreign")
    source = {**PROBLEMS, "sources": [{**PROBLEMS["sources"][0], "count": 12}]}
    stages = (source, {"name": "base", "use": "import_model", "path": str(base)}, {**SFT, "model": "base"})
    out = tmp_path / "runs" / "tiny"
    run_recipe(build_recipe(*stages), tmp_path, out, RunOptions(device="cpu", workers=1, trackers=(tracker,)))

    folder = find_stage(out, "sft")
    assert [name for name, _, _ in tracker.opened] == [f"tiny/{folder.name}"]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert list_steps(tracker.curves["id-0"]) == [*range(1, len(lines) + 1)]
    assert {"loss", "lr", "grad_norm", "tokens"} <= tracker.curves["id-0"].sent[0][1].keys()
    assert not list(out.rglob("*tracked*"))


def test_what_tensorboard_was_sent_is_read_back_from_its_event_files(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = build_stage(tmp_path)
    for losses in ({1: 2.0, 2: 1.5}, {2: 9.0, 3: 1.25}):  # in the second process step 2 is known
        with track_stage(find_trackers(["tensorboard"]), folder) as observe:
            for step, loss in losses.items():
                observe({"step": step, "loss": loss, "rewards": {"correctness": 0.5}, "note": "text"})

    events = reader.EventAccumulator(str(folder)).Reload()

    assert events.Tags()["scalars"] == ["loss", "rewards/correctness"]
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 2.0), (2, 1.5), (3, 1.25)]


def test_an_unknown_tracker_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'wandbb'; did you mean 'wandb'\?"):
        find_trackers(["wandbb"])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_without_its_package_is_refused_with_the_remedy(name: str) -> None:
    if find_spec(name) is not None:
        assert [tracker.name for tracker in find_trackers([name, name])] == [name]
    else:
        with pytest.raises(ConfigError, match=f"pip install {name}"):
            find_trackers([name])


def test_a_folder_that_a_tracker_left_is_not_taken_for_its_package(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    code = "from ponderosa.tracking import find_trackers; find_trackers(['wandb'])"
    isolated = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"]
    result = subprocess.run(isolated, capture_output=True, text=True, check=False)
    if find_spec("wandb") is None:
        assert "pip install wandb" in result.stderr


def test_no_tracker_is_imported_before_something_is_sent() -> None:
    code = (
        "import sys\n"
        "from ponderosa.tracking import TRACKERS, track_stage\n"
        "from pathlib import Path\n"
        "with track_stage([build() for build in TRACKERS.values()], Path('run/stages/sft-0a')): pass\n"
        "print(sorted({'tensorboard', 'wandb', 'trackio', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
