"""Sample attempts with their executed steps. Every string here may have been written by a model."""

from typing import Any

from ponderosa.report.html import Html, join, tag
from ponderosa.report.numbers import format_count
from ponderosa.report.run import Record, Run, StageFolder, as_record, as_records
from ponderosa.report.table import ALL

_MOST_CHARACTERS = 4_000
_MOST_SAMPLES = 24


def render_attempts(run: Run) -> Html | None:
    """A fold for each evaluation, the last one open; None when no stage kept samples."""
    folds = [stage for stage in run.stages if stage.samples]
    if not folds:
        return None
    return tag("div", [_render_fold(stage, is_open=stage is folds[-1]) for stage in folds])


def _render_fold(stage: StageFolder, *, is_open: bool) -> Html:
    shown = stage.samples[:_MOST_SAMPLES]
    right = sum(_is_correct(sample) for sample in shown)
    summary = tag(
        "summary",
        tag("b", stage.label),
        f" {right} right and {len(shown) - right} wrong shown, chosen by hash",
    )
    cards = tag("div", [_render_attempt(sample) for sample in shown], class_="attempts")
    return tag("details", summary, cards, open="" if is_open else None)


def _render_attempt(sample: Record) -> Html:
    is_correct = _is_correct(sample)
    reason = _text(as_record(sample.get("verdict")).get("reason")) or "not graded"
    badge = tag(
        "span",
        "✓ " if is_correct else "✗ ",
        reason.replace("_", " "),
        class_=f"badge {'right' if is_correct else 'wrong'}",
    )
    name = _text(sample.get("slice")).replace("=", " ")
    facts = ["" if name == ALL else name, f"{format_count(sample.get('tokens'))} tokens written"]
    if sample.get("finish") == "length":
        facts.append("cut at the token limit")
    head = tag("header", badge, tag("span", " · ".join(fact for fact in facts if fact), class_="note"))
    question = tag("p", _text(sample.get("question")), class_="question model-text", dir="auto")
    steps = [tag("li", render_step(step)) for step in as_records(sample.get("steps"))]
    answers = tag(
        "footer",
        tag("span", "answer ", tag("b", _text(sample.get("answer")) or "none", class_="model-text")),
        tag("span", "gold ", tag("b", _text(sample.get("gold")) or "none", class_="model-text")),
    )
    return tag("article", head, question, tag("ol", steps) if steps else None, answers)


def render_step(step: Record) -> Html:
    """What a step says or computes, and what running it showed."""
    code, outcome = _text(step.get("code")), _text(step.get("outcome"))
    written = (
        _render_code(code)
        if code
        else tag("p", _text(step.get("text")).strip("\n"), class_="prose model-text")
    )
    observation = _text(step.get("observation"))
    failed = tag("span", outcome.replace("_", " "), class_="failed") if outcome not in ("", "ok") else None
    seen = (
        tag("div", failed, tag("code", observation), class_="observation") if observation or failed else None
    )
    return join([written, seen])


def _render_code(code: str) -> Html:
    """Code with its comment lines set apart: they are where the model says why."""
    lines = code.strip("\n").split("\n")
    spelled = [
        tag("span", line, "\n", class_="why") if line.lstrip().startswith("#") else f"{line}\n"
        for line in lines
    ]
    return tag("pre", tag("code", spelled), class_="model-text")


def _is_correct(sample: Record) -> bool:
    return as_record(sample.get("verdict")).get("correct") is True


def _text(value: Any) -> str:
    """A value as text of bounded length; a missing one is empty."""
    text = "" if value is None else str(value)
    rest = len(text) - _MOST_CHARACTERS
    return text if rest <= 0 else f"{text[:_MOST_CHARACTERS]} … ({rest:,} more characters)"
