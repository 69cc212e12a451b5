"""Advantages of single steps from search trees, as policy-gradient training reads them.

The group of a step is its tree: its advantage is its own value less that of the question, not divided by a spread
(DeepSearch, arXiv 2509.25454, the Tree-GRPO objective: A = q(s) - mean of the tree). A step is praised or blamed for
what came of it, not for how its solution as a whole ended. Two things differ from there. A value is the share of
solutions that went right behind a step, in [-1, 1], with every candidate counted as often as the policy wrote it
(`tree_outcomes.compute_success`): what search visited more often counts no more. And every step of a tree is trained
on, once, where DeepSearch takes chosen trajectories.

Rows weigh a step's tokens by how often it was drawn; `average_draws` makes a batch of them a mean over drawn tokens.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from ponderosa.data.packing import Batch
from ponderosa.data.tree_outcomes import compute_success
from ponderosa.records import GradedTree, Row


class AdvantageRows(NamedTuple):
    """Rows, how many steps carry loss in them, and what gave none, by reason: trees that are unjudged or flat (all of a
    tree's solutions are right, or none is), and solutions longer_than_context."""

    rows: list[Row]
    num_steps: int
    dropped: dict[str, int]


def build_advantage_rows(
    trees: Iterable[GradedTree], *, temperature: float, max_length: int | None = None
) -> AdvantageRows:
    """A row for each solution of each tree; a step that several share carries loss in the first of them alone.

    A step's tokens weigh as often as it was drawn. Columns: `advantages`, `sampling_logprobs`, `old_logprobs` (the
    engine's: the policy that sampled is the one whose ratio is 1), `temperatures`. temperature: that was sampled at.
    max_length: of a row in tokens. A longer solution has no row, and the others carry the steps that it shares with them.
    """
    rows: list[Row] = []
    num_steps = 0
    dropped: Counter[str] = Counter()
    for graded in trees:
        advantages = compute_step_advantages(graded)
        if not any(advantages.values()):
            dropped["flat" if advantages else "unjudged"] += 1
            continue
        taken: set[int] = set()
        for place in sorted(advantages.keys() & graded.verdicts.keys()):
            if max_length is not None and len(graded.tree.join_tokens(place)) > max_length:
                dropped["longer_than_context"] += 1
                continue
            path = graded.tree.list_path(place)
            rows.append(_build_row(graded, path, advantages, taken, temperature))
            taken.update(path)
        num_steps += sum(any(graded.tree.nodes[step].sampled) for step in taken)
    return AdvantageRows(rows, num_steps, dict(dropped))


def average_draws(batch: Batch) -> Batch:
    """The rows of an optimizer step with weights as `training.policy_loss` wants them: they sum to its tokens.

    A token drawn m times gets m N / Σ m, for the N tokens of the step that carry loss. Divided by N, the step is the mean
    over all that was drawn, the same for one candidate drawn m times as for m copies of it.
    """
    weights = [weight for row in batch for weight in row.loss_weights if weight > 0]
    if not weights:  # The loop names the rows of such a step.
        return batch
    scale = len(weights) / sum(weights)
    return tuple(
        replace(row, loss_weights=tuple(weight * scale for weight in row.loss_weights)) for row in batch
    )


def compute_step_advantages(graded: GradedTree) -> dict[int, float]:
    """The advantage of every step that a judged solution goes through, by place, in [-2, 2].

    Weighted by how often they were drawn, those of the first steps sum to 0.
    """
    success = compute_success(graded)
    firsts = [
        success[place]
        for place, node in enumerate(graded.tree.nodes)
        if node.parent is None and place in success
        for _ in range(node.multiplicity)
    ]
    baseline = fmean(firsts) if firsts else 0.0
    if len(set(success.values())) < 2:
        return dict.fromkeys(success, 0.0)
    return {place: value - baseline for place, value in success.items()}


def _build_row(
    graded: GradedTree, path: list[int], advantages: dict[int, float], taken: set[int], temperature: float
) -> Row:
    prompt = graded.tree.prompt_ids
    token_ids, weights = list(prompt), [0.0] * len(prompt)
    columns = {name: [0.0] * len(prompt) for name in ("advantages", "sampling_logprobs")}
    for place in path:
        node = graded.tree.nodes[place]
        weight = 0.0 if place in taken else float(node.multiplicity)
        token_ids += node.token_ids
        weights += [weight if is_sampled else 0.0 for is_sampled in node.sampled]
        columns["advantages"] += [advantages[place]] * len(node.token_ids)
        columns["sampling_logprobs"] += node.sampling_logprobs
    columns |= {
        "old_logprobs": columns["sampling_logprobs"],
        "temperatures": [temperature] * len(token_ids),
    }
    return Row(
        tuple(token_ids),
        tuple(weights),
        (0,) * len(token_ids),
        columns={name: tuple(values) for name, values in columns.items()},
    )
