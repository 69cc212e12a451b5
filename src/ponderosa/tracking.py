"""Experiment trackers: the numbers of every line of a stage's `metrics.jsonl`, sent on as it is written.

A tracker's package is imported when the first line is sent, and never unless it was asked for. A note beside the log
says how far each tracker is, so a continued run sends no step twice and leaves none out. A tracker that fails is given
up for the rest of the stage, with a warning; training goes on. Configuration, text and models are not sent.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ponderosa.artifacts import read_json
from ponderosa.config import suggest
from ponderosa.errors import ConfigError
from ponderosa.progress import Observer

log = logging.getLogger(__name__)

PROJECT = "ponderosa"


@dataclass(frozen=True, slots=True)
class CurveName:
    """What a stage's curve is called, and the folder for whatever the tracker writes."""

    run: str
    stage: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.run}/{self.stage}"


class Curve(Protocol):
    """One stage's numbers in a tracker. id: opens it again in another process."""

    id: str

    def log(self, numbers: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Tracker(Protocol):
    """Somewhere to send curves to. May raise anything, at any time."""

    name: str

    def open(self, name: CurveName, *, id: str | None, step: int) -> Curve:
        """A new curve, or the one of that id, to go on at `step`."""
        ...


def find_trackers(names: Sequence[str]) -> tuple[Tracker, ...]:
    """Trackers by name, each once. Raises ConfigError for an unknown one or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"no tracker {name!r}{suggest(name, TRACKERS)}")
        spec = find_spec(name)
        # Without an origin it is no package but a folder of that name, such as trackers leave behind.
        if spec is None or spec.origin is None:
            raise ConfigError(f"tracker {name!r} needs a package that is not installed: pip install {name}")
    return tuple(TRACKERS[name]() for name in dict.fromkeys(names))


@contextmanager
def track_stage(trackers: Sequence[Tracker], folder: Path) -> Iterator[Observer]:
    """Gives what sends the lines of a stage's log to every tracker; they are closed in the end.

    folder: the stage's own, RUN/stages/STAGE.
    """
    name = CurveName(folder.resolve().parents[1].name, folder.name, folder)
    followers = [_Follower(tracker, name) for tracker in trackers]

    def observe(line: Mapping[str, Any]) -> None:
        for follower in followers:
            follower.send(line)

    try:
        yield observe
    finally:
        for follower in followers:
            follower.close()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, their keys joined by '/'; whatever else is there is left out."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            numbers |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = value
    return numbers


class _Follower:
    """One tracker following one stage's log."""

    def __init__(self, tracker: Tracker, name: CurveName) -> None:
        self._tracker, self._name = tracker, name
        self._note = name.folder / f"tracked-{tracker.name}.json"
        self._id, self._step = _read_note(self._note)
        self._curve: Curve | None = None
        self._is_given_up = False

    def send(self, line: Mapping[str, Any]) -> None:
        step = line["step"]
        if step > self._step and not self._is_given_up:
            self._attempt(lambda: self._send(step, {key: line[key] for key in line if key != "step"}))

    def close(self) -> None:
        if self._curve is not None:
            self._attempt(self._curve.close)

    def _send(self, step: int, values: Mapping[str, Any]) -> None:
        if self._curve is None:
            self._curve = self._tracker.open(self._name, id=self._id, step=step)
            self._id = self._curve.id
        self._curve.log(flatten(values), step)
        self._step = step
        # Replaced whole, but not forced to disk at every step: after a power cut some steps may be sent again.
        temporary = self._note.with_name(f".{self._note.name}.tmp")
        temporary.write_text(json.dumps({"id": self._id, "step": step}))
        os.replace(temporary, self._note)

    def _attempt(self, act: Callable[[], None]) -> None:
        # Broad: other people's clients fail in ways of their own, and none is a reason to stop training.
        try:
            act()
        except Exception as error:
            if not self._is_given_up:
                log.warning(
                    "tracker %s failed and gets no more of %s (sent up to step %d): %s: %s",
                    self._tracker.name,
                    self._name,
                    self._step,
                    type(error).__name__,
                    error,
                )
            self._is_given_up = True


def _read_note(path: Path) -> tuple[str | None, int]:
    """The id of the curve and the last step sent; of a new curve if there is no such note, or not a whole one."""
    try:
        known = read_json(path)
        return known["id"], known["step"]
    except (FileNotFoundError, ValueError):
        return None, 0


class TensorBoard:
    """Event files in the stage's folder: `tensorboard --logdir runs` finds them."""

    name = "tensorboard"

    def open(self, name: CurveName, *, id: str | None, step: int) -> Curve:
        from torch.utils.tensorboard import SummaryWriter

        return _TensorBoardCurve(SummaryWriter(str(name.folder), purge_step=step))


class _TensorBoardCurve:
    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.id = ""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases, in the project of $WANDB_PROJECT; its own environment variables hold."""

    name = "wandb"

    def open(self, name: CurveName, *, id: str | None, step: int) -> Curve:
        import wandb

        return _WandBCurve(
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=str(name),
                id=id,
                resume="allow",
                dir=name.folder,
                settings=wandb.Settings(console="off"),
            )
        )


class _WandBCurve:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.id = run.id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, on this machine or wherever its environment variables say. It writes twice a second: of the steps since
    then, a killed process leaves none."""

    name = "trackio"

    def open(self, name: CurveName, *, id: str | None, step: int) -> Curve:
        import trackio

        with redirect_stdout(sys.stderr):
            run = trackio.init(project=PROJECT, name=str(name), resume="allow" if id else "never")
        return _TrackioCurve(run, trackio.finish)


class _TrackioCurve:
    def __init__(self, run: Any, finish: Callable[[], None]) -> None:
        self._run, self._finish = run, finish
        self.id = run.id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._finish()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
"""By name, which is also that of the package."""
