"""What the ends of solutions mean for the steps that led there: visits N, values Q, closed sub-trees.

    own visits   a step that the reward model scored begins with one pseudo-visit of that value, which is its own alone
                 (q0 of rStar-Math, arXiv 2501.04519, section 3.2); where a solution ends, its value counts instead
    backed up    the value of a solution is added to its end and to every step before it, once for every candidate
                 that was written exactly so

So N of a step, less its pseudo-visit, is the sum of its children's, each less its own.
"""

from ponderosa.search.tree import SearchNode


def start_value(node: SearchNode) -> None:
    """The pseudo-visit of a new step that can go on and has been scored."""
    if node.is_open and node.score is not None:
        node.visits, node.total = 1, node.score


def back_up(node: SearchNode, value: float) -> None:
    """Add the value of the solution that ends here, in [-1, 1], to it and all before it, the root included: once for
    every candidate that was written so and has not been counted."""
    assert not node.is_open, "only solutions that ended are backed up"
    assert -1 <= value <= 1, value
    num_new = node.multiplicity - node.visits
    for step in node.lineage:
        step.visits += num_new
        step.total += num_new * value


def close(node: SearchNode, closed: set[SearchNode]) -> None:
    """Put a node among those that are not to be visited any more, and every node that has no other children."""
    for step in node.lineage:
        if step is not node and not all(child in closed for child in step.children):
            return
        closed.add(step)
