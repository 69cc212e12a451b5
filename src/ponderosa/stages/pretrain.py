"""Grow a base model from nothing: packed text, chapter after chapter.

    for chapter in textbook:  pack its documents into rows, shuffle, batch
    train once over all batches with warm-up, stable and decay
    save with the prompt format every later stage shares: the base knows no step tags and answers it in prose

With `also`, worked code solutions are mixed into the last chapter: the single-stage control, which sees the
tokens of all stages in one.

Writes model/, metrics.jsonl.
"""

from pydantic import Field, model_validator

from ponderosa.data.packing import build_batches, pack_rows
from ponderosa.data.rows import build_row
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.loading import select_device
from ponderosa.formats import PLAIN_CODE
from ponderosa.identity import derive_seed
from ponderosa.model_directory import load_tokenizer
from ponderosa.records import Row
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.textbook import load_chapters
from ponderosa.stages.tokenizer import FOLDER
from ponderosa.stages.training_data import SolutionData, build_training_rows
from ponderosa.stages.training_stage import Learner, check_row_length, train_on_batches
from ponderosa.steps import Example
from ponderosa.training.loop import TrainConfig
from ponderosa.training.model import ModelConfig, build_model

VERSION = 3


class Config(StageConfig):
    """What is grown, on what, for how long."""

    textbook: str = Field("textbook", description="textbook stage to read")
    tokenizer: str = Field("tokenizer", description="tokenizer stage to use")
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    row_length: int = Field(512, ge=2, description="tokens of a packed row; no more than the model's context")
    tokens_per_step: int = Field(2048, ge=1, description="tokens of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over each chapter")
    few_shot: tuple[Example, ...] = Field(
        (), description="worked examples of the prompt all later stages share"
    )
    also: SolutionData | None = Field(None, description="solutions mixed into the last chapter")

    @model_validator(mode="after")
    def _check(self) -> "Config":
        check_row_length(self.row_length, self.model.context)
        return self

    def needs(self) -> tuple[Need, ...]:
        grown_from = (Need(self.textbook, "textbook"), Need(self.tokenizer, "tokenizer"))
        return (*grown_from, *(self.also.needs() if self.also else ()))


def run(config: Config, context: Context) -> Outcome:
    tokenizer = load_tokenizer(context.inputs[config.tokenizer] / FOLDER)
    codec = HFCodec(tokenizer)
    prompt_format = PLAIN_CODE.model_copy(update={"few_shot": config.few_shot})
    chapters = [
        [build_document_row(pieces, codec) for pieces in chapter]
        for chapter in load_chapters(context.inputs[config.textbook])
    ]
    rejected: dict[str, int] = {}
    if config.also is not None:
        also, rejected = build_training_rows(config.also, prompt_format, codec, context)
        chapters[-1] += also
    batches = []
    for number, rows in enumerate(chapters):
        seed = derive_seed("pretrain", context.seed, number)
        packing = pack_rows(rows, config.row_length, seed=seed)
        batches += build_batches(
            packing.rows, tokens_per_step=config.tokens_per_step, seed=seed, epochs=config.epochs
        )
    model = build_model(config.model, tokenizer, seed=derive_seed("model", context.seed))
    model.to(select_device(context.device))
    learner = Learner(model, tokenizer, prompt_format, codec)
    facts = {"documents": sum(len(rows) for rows in chapters), "vocab_size": codec.vocab_size}
    return train_on_batches(learner, batches, config.train, context, facts=facts, dropped=rejected)


def build_document_row(pieces: list[str], codec: HFCodec) -> Row:
    """A textbook document: every token carries loss, its end included."""
    token_ids = [token for piece in pieces for token in codec.encode(piece)]
    return build_row([*token_ids, codec.eos_id], [True] * (len(token_ids) + 1))
