"""Which child of a node a search goes on with: UCT and PUCT over statistics, and where PUCT's prior comes from.

Pure: values in, values out. The legend: A are the children of one node, in the order they were drawn.
"""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ponderosa.config import Config

Prior = Literal["multiplicity", "logprob"]
"""Where P(step | parent) comes from. Candidates are samples of the policy already, so how likely the policy finds a
step is counted once, in one of two ways and never in their product:

    multiplicity   the share of an expansion's candidates that were written exactly so
    logprob        exp(mean log-probability of the step's sampled tokens), normalised over the distinct candidates
"""


class SelectionRule(Config):
    """How children are compared (N visits, Q mean value in [-1, 1], P prior, c `exploration`).

    uct    Q + c sqrt(ln N_parent / N)          rStar-Math (arXiv 2501.04519) with c = 2; there is no prior in it
    puct   Q + c P sqrt(N_parent) / (1 + N)     AlphaZero's form, with a constant c
    """

    rule: Literal["uct", "puct"] = Field("uct", description="how children are compared")
    exploration: float = Field(2.0, ge=0, description="weight c of the bonus for few visits")
    first_play: float | None = Field(
        None,
        ge=-1,
        description="Q of a child without visits, to which uct adds no bonus; null puts it before every visited one. "
        "With 0, as in rStar-Math's code, one good child keeps its siblings from ever being tried",
    )
    prior: Prior = Field(
        "multiplicity",
        description="P of puct: `multiplicity` (share of the candidates written exactly so) or `logprob` (exp of the "
        "mean log-probability of the step's tokens, normalised)",
    )

    def compute_scores(
        self,
        parent_visits: int,
        visits_A: Sequence[int],
        values_A: Sequence[float],
        priors_A: Sequence[float],
    ) -> list[float]:
        """The score of each child; the highest is gone on with.

        A parent may have fewer visits than a child, whose pseudo-visit is its own; it counts as visited once at least.
        """
        return [
            self._compute_score(max(1, parent_visits), visits, value, prior)
            for visits, value, prior in zip(visits_A, values_A, priors_A, strict=True)
        ]

    def _compute_score(self, parent_visits: int, visits: int, value: float, prior: float) -> float:
        if not visits and self.first_play is None:
            return math.inf
        quality = value if visits or self.first_play is None else self.first_play
        if self.rule == "puct":
            return quality + self.exploration * prior * math.sqrt(parent_visits) / (1 + visits)
        bonus = math.sqrt(math.log(parent_visits) / visits) if visits else 0.0
        return quality + self.exploration * bonus


def compute_priors(
    prior: Prior, multiplicities_A: Sequence[int], mean_logprobs_A: Sequence[float]
) -> list[float]:
    """P(step | parent) of the distinct candidates of one expansion; they sum to 1."""
    highest = max(mean_logprobs_A)
    weights_A = (
        [float(multiplicity) for multiplicity in multiplicities_A]
        if prior == "multiplicity"
        else [math.exp(logprob - highest) for logprob in mean_logprobs_A]
    )
    total = sum(weights_A)
    return [weight / total for weight in weights_A]
