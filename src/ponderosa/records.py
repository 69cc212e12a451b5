"""The records that cross stages: the glossary of the project.

    Problem   a question with a gold answer or a verifier
    Step      one piece of a solution: text, code, and what running it showed
    Attempt   one solution by one policy, token by token, with its cost and provenance
    Verdict   is it right, and why not; stored apart from attempts, so a better grader re-grades for free
    GradedAttempt   the two together
    Node      one step of a search tree, with what the search knew of it
    Tree      everything a search wrote for one problem
    GradedTree   a tree with the verdicts on its solutions
    Pair      chosen and rejected continuations of one prompt
    Row       one training row: token ids, loss weights, document ids

Records are frozen and hold plain values, so `to_record` gives JSON and Parquet the same columns.
Text the model did not write (questions, interpreter output) is `sampled = False` in an Attempt and has loss
weight 0 in a Row.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from ponderosa.identity import content_hash

SCHEMA = 1

Outcome = Literal["ok", "error", "timeout", "memory", "output_limit", "crash"]
"""How running code ended; attributable to the code, never inferred from its text."""

Finish = Literal["stop", "length", "error"]
"""How a generation ended: at a stop, at its token limit, or refused (the request's own fault)."""

Reason = Literal[
    "correct",
    "wrong_answer",
    "refuted",
    "no_answer",
    "unparsable",
    "truncated",
    "code_error",
    "timeout",
    "memory",
    "output_limit",
    "crash",
    "undecided",
]
"""Why a verdict is what it is: the closed list. `refuted` is a right answer whose program is wrong on other numbers."""

REASONS: tuple[Reason, ...] = get_args(Reason)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question whose answer can be checked.

    answer: the gold answer; None for tasks that can only be verified.
    verifier: name of the checker (see `ponderosa.verify`); its arguments are in `meta`.
    solution: a reference solution, if there is one, in the source's own notation.
    """

    question: str
    answer: str | None = None
    verifier: str = "answer"
    source: str = "user"
    split: str = "test"
    solution: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            key = [self.question, self.answer, self.verifier]
            object.__setattr__(self, "id", content_hash(key))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution. `code` is None for prose; `outcome` is None until the code has run."""

    text: str
    code: str | None = None
    observation: str | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one record cost. Prefill counts tokens computed, not tokens found in a prefix cache."""

    prompt_tokens: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    executions: int = 0
    flops: float = 0.0

    @property
    def computed_tokens(self) -> int:
        """Tokens that some model computed: prefilled, generated or scored."""
        return self.prefill_tokens + self.generated_tokens + self.scored_tokens

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.prefill_tokens + other.prefill_tokens,
            self.generated_tokens + other.generated_tokens,
            self.scored_tokens + other.scored_tokens,
            self.executions + other.executions,
            self.flops + other.flops,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One solution by one policy.

    token_ids: what follows the prompt, model tokens and observations alike (T).
    sampled: True where the model wrote the token (T).
    model_logprobs: log p of each sampled token at temperature 1, untruncated; 0.0 where not sampled (T).
    sampling_logprobs: log p under the distribution it was drawn from; 0.0 where not sampled (T).
    answer: the final answer as extracted, None if there is none; `answer_key` is its canonical form, equal
        for answers that are the same, so votes can be counted without a gold answer.
    """

    problem_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    model_logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    finish: Finish
    text: str
    steps: tuple[Step, ...]
    answer: str | None
    answer_key: str | None
    cost: Cost
    strategy: str
    model_id: str
    seed: int
    error: str | None = None

    @property
    def num_sampled(self) -> int:
        """Length in tokens the model wrote: what losses, rewards and statistics of length go by."""
        return sum(self.sampled)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is an answer right, and if not why. `verifier` is name@version of the checker that said so."""

    correct: bool
    reason: Reason
    verifier: str

    def __post_init__(self) -> None:
        assert self.correct == (self.reason == "correct"), (self.correct, self.reason)


class GradedAttempt(NamedTuple):
    """An attempt and the verdict on it."""

    attempt: Attempt
    verdict: Verdict


TreeEnd = Literal["budget", "closed", "solved", "hopeless", "suspicious"]
"""Why a search stopped: its budget was spent; nothing was left to expand; it had what it looked for; nothing right was
found where more should not be spent; or what it found makes the gold answer doubtful."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a search tree, as the search left it.

    parent: place in the tree's nodes of the step it continues, which stands before it; None continues the prompt.
    token_ids, sampled, model_logprobs, sampling_logprobs: as an Attempt's, of this step and what it showed alone (T).
    multiplicity: how many candidates of its expansion were written exactly so.
    prior: P(step | parent) that selection went by. visits: N. value: Q, the mean of what was backed up, in [-1, 1].
    score: the reward model's calibrated score in [-1, 1]; None if none was asked.
    finish: how the solution ended with this step; None if it could go on. answer, answer_key: as an Attempt's, where it
        ended.
    """

    parent: int | None
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    model_logprobs: tuple[float, ...]
    sampling_logprobs: tuple[float, ...]
    step: Step
    multiplicity: int
    prior: float
    visits: int
    value: float
    score: float | None
    finish: Finish | None
    answer: str | None
    answer_key: str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """Everything a search wrote for one problem, stored whole so that pairs and rows can be extracted under any rule.

    nodes: in the order they were made. scorer_id: of the reward model; None if none was asked.
    cost: of the whole search, each token and each execution once. num_simulations: descents to where a solution ended, if
    the search makes any.
    """

    problem_id: str
    prompt_ids: tuple[int, ...]
    nodes: tuple[Node, ...]
    end: TreeEnd
    cost: Cost
    strategy: str
    model_id: str
    scorer_id: str | None
    seed: int
    num_simulations: int = 0

    def group_children(self) -> dict[int | None, list[int]]:
        """The nodes that continue each node which anything continues, in their order; None stands for the prompt."""
        children: dict[int | None, list[int]] = {}
        for place, node in enumerate(self.nodes):
            children.setdefault(node.parent, []).append(place)
        return children

    def list_path(self, place: int | None) -> list[int]:
        """The nodes from the first step to one node, both included; none for None, the prompt."""
        path: list[int] = []
        while place is not None:
            path.append(place)
            place = self.nodes[place].parent
        return path[::-1]

    def join_tokens(self, place: int | None) -> tuple[int, ...]:
        """The prompt and every step to a node, that node included."""
        return self.prompt_ids + tuple(
            token for step in self.list_path(place) for token in self.nodes[step].token_ids
        )


class GradedTree(NamedTuple):
    """A tree and the verdicts on the solutions in it, by the place of the node that ends each."""

    tree: Tree
    verdicts: Mapping[int, Verdict]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two continuations of one prompt, the first preferred."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen_weights: tuple[float, ...]
    rejected_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One training row (T tokens).

    loss_weights: weight of predicting token t from tokens before it; 0.0 for text the model does not write
        and always 0.0 at a document's first token.
    document_ids: tokens attend only within their own document; documents are contiguous, numbered from 0.
    is_tree: every later document continues the first, which is held and computed once for all of them.
    columns: further numbers for each token that some losses read, by name (T each).
    """

    token_ids: tuple[int, ...]
    loss_weights: tuple[float, ...]
    document_ids: tuple[int, ...]
    is_tree: bool = False
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.loss_weights) == len(self.document_ids)
        assert all(len(column) == len(self.token_ids) for column in self.columns.values())


def to_record(value: Any) -> dict[str, Any]:
    """A frozen record as plain dicts and lists, ready for JSON or Parquet."""
    return asdict(value)
