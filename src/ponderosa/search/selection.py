"""Which child of a node a search goes on with: UCT and PUCT over statistics, and where PUCT's prior comes from.

Pure: values in, values out. The legend: A are the children of one node, in the order they were drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Prior = Literal["multiplicity", "logprob"]
"""Where P(step | parent) comes from. Candidates are samples of the policy already, so how likely the policy finds a
step is counted once, in one of two ways and never in their product:

    multiplicity   the share of an expansion's candidates that were written exactly so
    logprob        exp(mean log-probability of the step's sampled tokens), normalised over the distinct candidates
"""


def compute_priors(
    prior: Prior, multiplicities_A: Sequence[int], mean_logprobs_A: Sequence[float]
) -> list[float]:
    """P(step | parent) of the distinct candidates of one expansion; they sum to 1."""
    if prior == "multiplicity":
        weights_A: list[float] = [float(multiplicity) for multiplicity in multiplicities_A]
    else:
        highest = max(mean_logprobs_A)
        weights_A = [math.exp(logprob - highest) for logprob in mean_logprobs_A]
    total = sum(weights_A)
    return [weight / total for weight in weights_A]


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How children are compared (N visits, Q mean value in [-1, 1], P prior, c `exploration`).

        uct    Q + c sqrt(ln N_parent / N)          rStar-Math (arXiv 2501.04519) with c = 2; there is no prior in it
        puct   Q + c P sqrt(N_parent) / (1 + N)     AlphaZero's form, with a constant c

    first_play: what stands for an unvisited child: under UCT its whole score, since its bonus has no finite value, and
        under PUCT its Q. None puts unvisited children before all others, in the order they were drawn. The code
        released with rStar-Math has 0 here, so that one good child keeps its siblings from ever being tried.
    """

    rule: Literal["uct", "puct"] = "uct"
    exploration: float = 2.0
    first_play: float | None = None

    def compute_scores(
        self,
        parent_visits: float,
        visits_A: Sequence[float],
        values_A: Sequence[float],
        priors_A: Sequence[float],
    ) -> list[float]:
        """The score of each child; the highest is gone on with. A parent may have had fewer visits than its children,
        whose pseudo-visits are their own: below one visit it counts as one."""
        num_visits = max(1.0, parent_visits)
        return [
            self._compute_score(num_visits, visits, value, prior)
            for visits, value, prior in zip(visits_A, values_A, priors_A, strict=True)
        ]

    def _compute_score(self, parent_visits: float, visits: float, value: float, prior: float) -> float:
        if not visits and self.first_play is None:
            return math.inf
        quality = value if visits or self.first_play is None else self.first_play
        if self.rule == "puct":
            return quality + self.exploration * prior * math.sqrt(parent_visits) / (1 + visits)
        bonus = math.sqrt(math.log(parent_visits) / visits) if visits else 0.0
        return quality + self.exploration * bonus
