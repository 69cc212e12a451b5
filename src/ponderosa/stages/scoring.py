"""Log-probabilities of rows that are written already, or a reward model's scores, by the trainer's own forward pass."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from ponderosa.artifacts import Journal
from ponderosa.ledger import Ledger, compute_forward_flops, count_matrix_parameters
from ponderosa.progress import Progress, track
from ponderosa.records import Row
from ponderosa.training.batching import list_documents
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.loop import choose_dtype
from ponderosa.training.losses import CrossEntropy

UNIT_ROWS = 256
"""Rows scored at a time; how they are cut into microbatches depends on these rows alone."""

Scores = tuple[float, ...]


def build_scorer(model: PreTrainedModel, dtype: str, microbatch_tokens: int | None) -> GradientComputer:
    """What scores rows as a training run with these settings computes them."""
    return GradientComputer(
        model,
        CrossEntropy(),
        dtype=choose_dtype(dtype, model.device),
        microbatch_tokens=microbatch_tokens,
    )


def score_rows(
    scorer: GradientComputer,
    rows: Sequence[Row],
    *,
    label: str,
    progress: Progress,
    journal: Journal | None = None,
    unit_rows: int = UNIT_ROWS,
) -> list[Scores]:
    """log p (nats), or the reward model's score, of every token of each row that carries loss; 0 for the others.

    With a journal, finished units are committed and those found in it not computed again.
    """
    scores: list[Scores] = []
    with scorer.running(), track(progress, label, len(rows), unit="rows") as bar:
        for start in range(0, len(rows), unit_rows):
            unit = rows[start : start + unit_rows]
            name = f"{label} {start}"
            if journal is None:
                scores += scorer.score(unit)
            else:
                if name not in journal.units:
                    journal.append(name, [{"scores": row_scores} for row_scores in scorer.score(unit)])
                scores += [tuple(record["scores"]) for record in journal.units[name]]
            bar.advance(len(unit))
    return scores


def count_scoring(ledger: Ledger, model: PreTrainedModel, rows: Sequence[Row]) -> None:
    """Add what one forward pass over the rows costs."""
    matrix_parameters = count_matrix_parameters(model)
    for document in (document for row in rows for document in list_documents(row)):
        ledger.scored_tokens += document.length
        ledger.eval_flops += document.length * compute_forward_flops(
            matrix_parameters=matrix_parameters,
            num_layers=model.config.num_hidden_layers,
            width=model.config.hidden_size,
            context=document.prefix + (document.length + 1) / 2,
        )
