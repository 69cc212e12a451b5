"""The native scorer: a reward model read at the ends of partial solutions, through the engine's own cache.

Enter: sequences of token ids. Leave: calibrated scores in [-1, 1] and what each cost. The raw score of every token
is kept beside its key and value, so a sequence that begins a known one costs nothing, one that continues a known one
costs what was added, and siblings share their prefix. Nothing is ever cut off: what is scored, the newest step, stands
last.

Scores depend on what else is scored by rounding alone. Deliberately absent: more than one device.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from ponderosa.engines.attention import CachePass
from ponderosa.engines.kv_pages import KVPages
from ponderosa.engines.model import borrow_model, profile_model, run_hidden_states
from ponderosa.engines.page_table import PAGE_TOKENS
from ponderosa.engines.prefix_cache import PrefixCache
from ponderosa.engines.protocol import Scored
from ponderosa.engines.rows import RowTable
from ponderosa.errors import ConfigError
from ponderosa.reward_model_directory import Calibration


class ScorePages(KVPages):
    """Keys and values, and the raw score read at each token, [P, PAGE_TOKENS]."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype=dtype, device=device)
        self.scores = torch.zeros(0, PAGE_TOKENS, device=device)

    def reserve(self, num_pages: int) -> None:
        super().reserve(num_pages)
        self.scores = pad(self.scores, (0, 0, 0, self.num_pages - len(self.scores)))

    def clear(self) -> None:
        super().clear()
        self.scores = self.scores.new_zeros(0, PAGE_TOKENS)

    def copy(self, source: int, target: int) -> None:
        super().copy(source, target)
        self.scores[target] = self.scores[source]


class NativeScorer:
    """Reads a sequence classifier with one label; see `ponderosa.engines.protocol.Scorer`.

    num_rows: sequences whose keys and values are kept, for others that continue them or branch off.
    Raises DataError naming a model that it cannot run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        calibration: Calibration,
        *,
        model_id: str,
        max_context: int,
        num_rows: int = 256,
    ) -> None:
        self.model_id = model_id
        self.max_context = max_context
        self._model = model
        self._calibration = calibration
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        profile = profile_model(model, max_context, run_hidden_states)
        self.flops_per_token = profile.flops_per_token
        self._num_rows = num_rows
        self._rows = RowTable(num_rows, max_context)
        self._cache = ScorePages(dtype=model.dtype, device=model.device)
        self._prefixes = PrefixCache(
            model, self._rows, self._cache, self._read_scores, long_rope_after=profile.long_rope_after
        )

    def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """The score of each sequence of token ids (prompt included), read at its last token.

        Raises ConfigError for a sequence that does not fit the model's context or is not made of its tokens.
        """
        for sequence in sequences:
            self._check(sequence)
        scored: dict[int, Scored] = {}
        # A sequence comes before those that begin it, and so computes them; siblings stand together.
        order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]), reverse=True)
        with borrow_model(self._model):
            for start in range(0, len(order), self._num_rows):
                part = order[start : start + self._num_rows]
                scored |= zip(part, self._score_part([sequences[index] for index in part]), strict=True)
        return [scored[index] for index in range(len(sequences))]

    def reset(self) -> None:
        """Forget cached prefixes and take over the model's weights as they are now."""
        self._prefixes.forget()

    def _score_part(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """The scores of no more sequences than there are rows."""
        placements = [
            self._rows.place(sequence, is_long=self._prefixes.is_long(len(sequence)), is_read_only=True)
            for sequence in sequences
        ]
        self._prefixes.fill(placements)
        rows = [placement.row for placement in placements]
        last = np.array([placement.length - 1 for placement in placements])
        raw = self._cache.scores[self._rows.pages.find(np.array(rows), last)].tolist()
        for row in dict.fromkeys(rows):
            self._rows.release(row, is_over=False)
        return [
            Scored(value, placement.length - placement.shared)
            for value, placement in zip(self._calibration.apply(raw), placements, strict=True)
        ]

    def _read_scores(self, token_ids_RL: Tensor, positions_RL: Tensor, cache_pass: CachePass) -> None:
        """Run new tokens and note the raw score at each."""
        states_RLD = run_hidden_states(self._model, token_ids_RL, positions_RL, cache_pass)
        scores_RL = self._model.score(states_RLD)[..., 0]
        self._cache.scores[cache_pass.pages, cache_pass.places] = scores_RL.float()

    def _check(self, sequence: Sequence[int]) -> None:
        if not sequence or not 0 <= min(sequence) <= max(sequence) < self._vocab_size:
            raise ConfigError(
                f"a sequence to score is empty or holds token ids outside the reward model's {self._vocab_size}; "
                "score what a policy with the same tokenizer wrote"
            )
        if len(sequence) > self.max_context:
            raise ConfigError(
                f"a sequence of {len(sequence)} tokens does not fit the reward model's context of "
                f"{self.max_context}, and cutting it would hide the step to be scored; let solutions have fewer tokens "
                "(max_tokens), or train a reward model with a longer context"
            )
