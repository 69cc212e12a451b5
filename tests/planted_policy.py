"""A policy whose chance of success is known exactly after every token, with pivotal tokens planted in it.

Each problem is a line of slots. A state is a slot and p in per cent; a move is one token, and the mean of p over the
moves of a state is the p of the state, so p is the chance of ending right. Over a planted token p changes by PIVOT,
over any other by at most DRIFT:

    neutral   nothing changes, whatever is written
    drift     up or down by DRIFT, evenly
    pivot     up or down by PIVOT, evenly; neutral where there is no room
    double    a pivot that the next token takes back or repeats, evenly: neighbours that cancel
    (behind the last slot)   by DRIFT towards the nearer end, rarely by PIVOT away from it, until p is 0 or 100

Then "R" or "W", and end of text. No torch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import log
from typing import Literal, NamedTuple

from ponderosa.engines.protocol import GenerateRequest, Generation
from ponderosa.formats import PromptFormat
from ponderosa.records import Attempt, Problem, Step, Verdict
from search_fakes import judge_each

PIVOT, DRIFT = 30, 5
EOS, RIGHT, WRONG = 0, ord("R"), ord("W")
FIRST_QUESTION_ID = 1000
Slot = Literal["neutral", "drift", "pivot", "double"]
Key = tuple[str, tuple[int, ...]]
"""A token of an attempt: problem id, and the token ids up to and with it."""


class State(NamedTuple):
    """Before a token: slot number, p in per cent, and the change that the next token takes back or repeats."""

    slot: int
    percent: int
    pending: int = 0


class Move(NamedTuple):
    """A token, its chance, and the state behind it (None behind the answer)."""

    token_id: int
    probability: float
    state: State | None


@dataclass(frozen=True, eq=False)
class PlantedProblem:
    """A line of slots, and p in per cent at its beginning."""

    slots: tuple[Slot, ...]
    percent: int

    @cache  # noqa: B019
    def list_moves(self, state: State) -> tuple[Move, ...]:
        """What the policy may write in a state."""
        slot, percent, pending = state
        if pending:
            return (
                Move(ord(")"), 0.5, State(slot, percent - pending)),
                Move(ord("!"), 0.5, State(slot, percent + pending)),
            )
        if slot >= len(self.slots):
            return self._resolve(state)
        kind, room = self.slots[slot], min(percent, 100 - percent)
        if kind == "drift" and room >= DRIFT:
            return self._move(state, (DRIFT, 0.5), (-DRIFT, 0.5))
        if kind == "pivot" and room >= PIVOT:
            return self._move(state, (PIVOT, 0.5), (-PIVOT, 0.5))
        if kind == "double" and PIVOT <= room <= 100 - 2 * PIVOT:
            inward = PIVOT if percent < 50 else -PIVOT
            there, away = State(slot + 1, percent + inward, inward), State(slot + 1, percent - inward)
            return Move(ord("("), 0.5, there), Move(ord("|"), 0.5, away)
        spellings = "abcd" if slot % 2 else "e"
        return tuple(Move(ord(one), 1 / len(spellings), State(slot + 1, percent)) for one in spellings)

    def _resolve(self, state: State) -> tuple[Move, ...]:
        percent = state.percent
        if percent in (0, 100):
            return (Move(RIGHT if percent else WRONG, 1.0, None),)
        small = min(DRIFT, percent, 100 - percent)
        chance = PIVOT / (PIVOT + small)
        sign = 1 if percent >= 50 else -1
        return self._move(state, (sign * small, chance), (-sign * PIVOT, 1 - chance))

    def _move(self, state: State, *changes: tuple[int, float]) -> tuple[Move, ...]:
        letters = "xy" if state.slot % 2 else "uv"
        return tuple(
            Move(ord(letter), chance, State(state.slot + 1, state.percent + change))
            for letter, (change, chance) in zip(letters, changes, strict=True)
        )

    def step(self, state: State, token_id: int) -> State | None:
        (move,) = [move for move in self.list_moves(state) if move.token_id == token_id]
        return move.state

    @cache  # noqa: B019
    def follow(self, token_ids: tuple[int, ...]) -> State | None:
        """The state behind these tokens; None behind the answer."""
        state: State | None = State(0, self.percent)
        for token_id in token_ids:
            assert state is not None, "tokens behind the answer"
            state = self.step(state, token_id)
        return state

    def compute_values(self, token_ids: Sequence[int]) -> list[float]:
        """p before the first token of a whole attempt, and behind each of them."""
        state = State(0, self.percent)
        values = [state.percent / 100]
        for token_id in token_ids[:-2]:
            after = self.step(state, token_id)
            assert after is not None, "tokens behind the answer"
            state = after
            values.append(state.percent / 100)
        return [*values, values[-1], values[-1]]


def plant_problems(count: int, *, num_slots: int = 24, seed: int = 0) -> list[PlantedProblem]:
    """Lines of neutral and drifting slots with two pivots, in every fourth one double instead."""
    planted = []
    for number in range(count):
        source = random.Random(f"planted/{seed}/{number}")
        slots: list[Slot] = [source.choice(("neutral", "neutral", "drift")) for _ in range(num_slots)]
        has_double = number % 4 == 3
        for place in source.sample(range(3, num_slots), 1 if has_double else 2):
            slots[place] = "double" if has_double else "pivot"
        planted.append(PlantedProblem(tuple(slots), source.choice((40, 60)) if has_double else 50))
    return planted


def build_problems(planted: Sequence[PlantedProblem]) -> list[Problem]:
    """The planted problems as searches get them."""
    return [Problem(str(number), "R", split="train", id=str(number)) for number in range(len(planted))]


class PlantedCodec:
    """Letters by their code points; a question is one token."""

    eos_id = EOS
    eos_ids = frozenset({EOS})
    vocab_size = 100_000

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def encode_prompt(self, prompt_format: PromptFormat, question: str) -> list[int]:
        return [FIRST_QUESTION_ID + int(question)]


class PlantedEngine:
    """Samples planted problems; see `ponderosa.engines.protocol.Engine`. Whatever is pending ends in one tick."""

    model_id = "planted"
    flops_per_token = 1.0
    max_context = 10_000
    occupancy = 1.0

    def __init__(self, planted: Sequence[PlantedProblem], *, num_slots: int = 4096) -> None:
        self.planted = planted
        self.num_slots = num_slots
        self.codec = PlantedCodec()
        self.num_requests = 0
        self._due: list[tuple[int, Generation]] = []

    @property
    def num_pending(self) -> int:
        return len(self._due)

    def submit(self, request: GenerateRequest) -> int:
        self.num_requests += 1
        self._due.append((self.num_requests, self._generate(request)))
        return self.num_requests

    def tick(self) -> list[tuple[int, Generation]]:
        due, self._due = self._due, []
        return due

    def reset(self) -> None:
        """Nothing is remembered."""

    def _generate(self, request: GenerateRequest) -> Generation:
        planted = self.planted[request.prompt_ids[0] - FIRST_QUESTION_ID]
        state = planted.follow(request.prompt_ids[1:])
        draw = random.Random(request.seed).random
        token_ids: list[int] = []
        logprobs: list[float] = []
        while state is not None:
            uniform = draw()
            for move in planted.list_moves(state):
                uniform -= move.probability
                if uniform < 0:
                    break
            token_ids.append(move.token_id)
            logprobs.append(log(move.probability))
            state = move.state
        token_ids.append(EOS)
        logprobs.append(0.0)
        return Generation(tuple(token_ids), tuple(logprobs), tuple(logprobs), "stop", 1)


def read_answer(text: str, steps: Sequence[Step]) -> tuple[str | None, str | None]:
    return text[-1], text[-1]


@judge_each
def judge(problem: Problem, attempt: Attempt) -> Verdict:
    is_right = attempt.answer == problem.answer
    return Verdict(is_right, "correct" if is_right else "wrong_answer", "planted@1")


class Truth(NamedTuple):
    """What a search of some attempts should find.

    changes: of p over each of their tokens. cancelling: planted tokens beside one that takes all of the change back;
    pivotal: the other planted ones.
    """

    changes: dict[Key, float]
    pivotal: frozenset[Key]
    cancelling: frozenset[Key]


def know_truth(planted: Sequence[PlantedProblem], attempts: Sequence[Attempt]) -> Truth:
    """The planted tokens on these attempts; a token that two of them share counts once."""
    changes: dict[Key, float] = {}
    cancelling: set[Key] = set()
    for attempt in attempts:
        values = planted[int(attempt.problem_id)].compute_values(attempt.token_ids)
        steps = [
            ((attempt.problem_id, attempt.token_ids[:end]), round(after - before, 6))
            for end, (before, after) in enumerate(pairwise(values), 1)
        ]
        changes |= dict(steps)
        for (key, change), (next_key, next_change) in pairwise(steps):
            if abs(change) >= PIVOT / 100 and next_change == -change:
                cancelling |= {key, next_key}
    planted_keys = {key for key, change in changes.items() if abs(change) >= PIVOT / 100}
    return Truth(changes, frozenset(planted_keys - cancelling), frozenset(cancelling))
