"""Reinforcement learning, step by step: what was earned, how the policy changed, and whether the numbers can be trusted."""

from ponderosa.report.axes import NUM_COLOURS
from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import format_amount
from ponderosa.report.results import list_colours
from ponderosa.report.run import Record, Run, StageFolder, as_record
from ponderosa.report.step_curves import Panel, describe_ends, format_share, pick, render_panel
from ponderosa.report.training_curves import describe_training


def _read_rewards(step: Record) -> Record:
    """Each component's mean; where there are several, also their weighted sum."""
    rewards = as_record(step.get("rewards"))
    return rewards if len(rewards) < 2 else {**rewards, "weighted sum": step.get("baseline")}


_ACCURACY = Panel("Accuracy", "of all attempts, before any is dropped", pick("accuracy"), format_share)
_PANELS = (
    _ACCURACY,
    Panel("Reward", "mean of all attempts, by component", _read_rewards, format_amount),
    Panel(
        "Baseline",
        "mean reward of kept groups, before and after rebalancing",
        pick(before="full_baseline", after="rebalanced_baseline"),
        format_amount,
    ),
    Panel("Length", "tokens written per attempt", pick("length"), format_amount),
    Panel("Cut off", "attempts that reached the token limit", pick("truncated_frac"), format_share),
    Panel("Flat groups", "whose attempts all earned the same", pick("flat_frac"), format_share),
    Panel("Entropy", "nats per token", pick("entropy"), format_amount),
    Panel(
        "Clipped",
        "tokens whose gradient was cut",
        pick(above="clipped_high", below="clipped_low"),
        format_share,
    ),
    Panel(
        "Mismatch",
        "|log p, trainer less engine|, nats per token, with the weights that sampled",
        pick("engine_gap"),
        format_amount,
    ),
    Panel("KL", "to the reference, nats per token", pick("kl_reference"), format_amount),
    Panel("Temperature", "sampled at", pick("temperature"), format_amount, is_noisy=False),
)


def render_reinforcement(run: Run) -> Html | None:
    """A fold for each stage that learned from rewards, the last one open; None if none did."""
    colours = list_colours(run.rows)
    learned = [stage for stage in run.stages if stage.is_reinforcement]
    folds = [
        _render_fold(stage, colours.get(stage.model_name, rank % NUM_COLOURS), is_open=stage is learned[-1])
        for rank, stage in enumerate(learned)
    ]
    return tag("div", folds) if folds else None


def _render_fold(stage: StageFolder, colour: int, *, is_open: bool) -> Html:
    ends = describe_ends(stage, _ACCURACY)
    summary = tag("summary", tag("b", stage.label), f" accuracy {ends}" if ends else None)
    figures = [render_panel(stage, panel, colour) for panel in _PANELS]
    charts = tag("div", figures, class_="charts")
    return tag("details", summary, describe_training(stage), charts, open="" if is_open else None)
