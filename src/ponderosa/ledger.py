"""What work costs: tokens, FLOPs, seconds.

FLOPs follow the usual count for a decoder with N non-embedding parameters plus its output head: 2 N' per token
forward and 6 N' per token trained (4 N' where they are frozen), N' = all matrix parameters a token passes through, plus
attention (4 L T D forward per token at context T). Seconds are measured, so they are the one column a resumed run may differ in.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Ledger:
    """Running totals of a stage; saved in its manifest and carried through a resume."""

    train_tokens: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    executions: int = 0
    train_flops: float = 0.0
    eval_flops: float = 0.0
    seconds: float = 0.0

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


def compute_forward_flops(*, matrix_parameters: int, num_layers: int, width: int, context: float) -> float:
    """Forward FLOPs for one token at a mean attended context (tokens): 2 N' + 4 L T D."""
    return 2.0 * matrix_parameters + 4.0 * num_layers * width * context


def compute_train_flops(
    *,
    matrix_parameters: int,
    num_layers: int,
    width: int,
    context: float,
    frozen_parameters: int = 0,
    is_decoder_frozen: bool = False,
) -> float:
    """Forward and backward FLOPs for one trained token: three times the forward, less what frozen matrices spare.

    A frozen matrix has no gradient of its own (2 FLOPs a parameter), but passes that of its inputs on; where nothing in
    the decoder is trained, nothing is passed on, and only the head has a gradient.
    """
    forward = compute_forward_flops(
        matrix_parameters=matrix_parameters, num_layers=num_layers, width=width, context=context
    )
    if is_decoder_frozen:
        return forward + 2.0 * (matrix_parameters - frozen_parameters)
    return 3.0 * forward - 2.0 * frozen_parameters


def count_matrix_parameters(model: Any, *, only_frozen: bool = False) -> int:
    """N' of a transformers model: every matrix but the embedding table, which is only looked up, and the output head,
    tied to it or not (a classifier's head is a matrix like others). only_frozen: of these the ones not trained."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p is not embedding]
    if output is not None and output.weight is embedding:
        matrices.append(embedding)
    return sum(int(p.numel()) for p in matrices if not (only_frozen and p.requires_grad))
