"""Selection and backup: the rules by hand, and what holds for every tree."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponderosa.records import Attempt, Cost
from ponderosa.search.backup import back_up, close, start_value
from ponderosa.search.conclusion import choose_solution, compute_share, weigh_votes
from ponderosa.search.draft import Draft
from ponderosa.search.mcts import select_leaf
from ponderosa.search.selection import Prior, SelectionRule, compute_priors
from ponderosa.search.tree import SearchNode

OPEN, ENDED = Draft(()), Draft((), finish="stop")
ATTEMPT = Attempt("p", 0, (), (), (), (), (), "stop", "", (), "1", "1", Cost(), "mcts", "m", 0)


def play(rule: SelectionRule, num_arms: int, num_plays: int, reward: float) -> list[int]:
    """Visits of siblings that all give the same reward, when each play goes to the highest score."""
    visits = [0] * num_arms
    for num_before in range(num_plays):
        values = [reward * bool(count) for count in visits]
        scores = rule.compute_scores(num_before, visits, values, [1 / num_arms] * num_arms)
        visits[scores.index(max(scores))] += 1
    return visits


def test_uct_is_mean_value_plus_a_bonus_for_few_visits() -> None:
    scores = SelectionRule(exploration=2.0).compute_scores(9, [4, 1, 0], [0.5, -1.0, 0.0], [0.9, 0.1, 0.0])
    assert scores == [
        0.5 + 2 * math.sqrt(math.log(9) / 4),
        -1 + 2 * math.sqrt(math.log(9)),
        math.inf,
    ]


def test_puct_weighs_its_bonus_by_the_prior_and_gives_the_unvisited_the_first_play_value() -> None:
    rule = SelectionRule(rule="puct", exploration=1.5, first_play=-0.25)
    scores = rule.compute_scores(16, [3, 0], [0.5, 0.0], [0.25, 0.75])
    assert scores == [0.5 + 1.5 * 0.25 * 4 / 4, -0.25 + 1.5 * 0.75 * 4]


def test_before_the_first_visit_puct_follows_the_prior() -> None:
    rule = SelectionRule(rule="puct", first_play=0.0)
    scores = rule.compute_scores(0, [0, 0], [0.0, 0.0], [0.25, 0.75])
    assert scores[1] > scores[0]


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
def test_eight_siblings_of_constant_reward_are_all_visited_in_48_simulations(
    rule: str, reward: float
) -> None:
    assert min(play(SelectionRule.model_validate({"rule": rule}), 8, 48, reward)) >= 5


def test_a_first_play_value_of_zero_starves_them_as_in_the_released_code() -> None:
    visited = [count for count in play(SelectionRule(first_play=0.0), 8, 48, 1.0) if count]
    assert len(visited) == 1


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(-50, 0)), min_size=1, max_size=16))
def test_priors_are_a_distribution_that_follows_one_of_the_two_and_ignores_the_other(
    candidates: list[tuple[int, float]],
) -> None:
    multiplicities = [multiplicity for multiplicity, _ in candidates]
    logprobs = [logprob for _, logprob in candidates]
    kinds: tuple[tuple[Prior, list[float]], ...] = (
        ("multiplicity", [float(multiplicity) for multiplicity in multiplicities]),
        ("logprob", logprobs),
    )
    for kind, keys in kinds:
        priors = compute_priors(kind, multiplicities, logprobs)
        assert sum(priors) == pytest.approx(1)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        assert all(priors[low] <= priors[high] for low, high in itertools.pairwise(order))
    assert compute_priors("multiplicity", multiplicities, [0.0] * len(logprobs)) == compute_priors(
        "multiplicity", multiplicities, logprobs
    )
    assert compute_priors("logprob", [1] * len(logprobs), logprobs) == compute_priors(
        "logprob", multiplicities, logprobs
    )


def build_tree(random: Random, num_nodes: int) -> list[SearchNode]:
    """A random tree with the root first: scored and unscored steps, ended solutions that were backed up."""
    nodes = [SearchNode(OPEN)]
    for _ in range(num_nodes):
        parent = random.choice([node for node in nodes if node.is_open])
        node = SearchNode(
            ENDED if random.random() < 0.3 and parent.parent else OPEN,
            parent,
            multiplicity=random.randint(1, 3),
            prior=random.random(),
            score=random.choice([None, random.uniform(-1, 1)]),
        )
        node.attempt = None if node.is_open else ATTEMPT
        parent.children.append(node)
        nodes.append(node)
        start_value(node)
        if not node.is_open:
            back_up(node, random.choice([-1.0, 1.0, random.uniform(-1, 1)]))
    return nodes


def close_ended(nodes: list[SearchNode]) -> set[SearchNode]:
    closed: set[SearchNode] = set()
    for node in nodes:
        if not node.is_open:
            close(node, closed)
    return closed


trees = st.builds(build_tree, st.randoms(use_true_random=False), st.integers(1, 40))


def count_own(node: SearchNode) -> int:
    """Visits that are nobody else's: the pseudo-visit of a scored step."""
    return int(node.is_open and node.score is not None and node.parent is not None)


@settings(max_examples=40, deadline=None)
@given(trees)
def test_visits_of_a_step_are_those_of_its_children_and_its_own(nodes: list[SearchNode]) -> None:
    for node in nodes:
        ended_here = 0 if node.is_open else node.multiplicity
        below = sum(child.visits - count_own(child) for child in node.children)
        assert node.visits == below + count_own(node) + ended_here


@settings(max_examples=40, deadline=None)
@given(trees)
def test_values_stay_between_minus_one_and_one_and_are_the_mean_of_what_was_backed_up(
    nodes: list[SearchNode],
) -> None:
    for node in nodes:
        assert -1 - 1e-9 <= node.value <= 1 + 1e-9
    for node in nodes:
        below = sum(child.total - count_own(child) * (child.score or 0.0) for child in node.children)
        if node.is_open:
            assert node.total == pytest.approx(below + count_own(node) * (node.score or 0.0))


@settings(max_examples=40, deadline=None)
@given(trees, st.sampled_from(["uct", "puct"]), st.sampled_from([None, 0.0, 1.0]))
def test_leaves_in_flight_are_different_never_closed_and_in_the_end_all_there_are(
    nodes: list[SearchNode], rule: str, first_play: float | None
) -> None:
    closed = close_ended(nodes)
    before = [(node.visits, node.total) for node in nodes], set(closed)
    selection = SelectionRule.model_validate({"rule": rule, "first_play": first_play})

    leaves: list[SearchNode] = []
    while (leaf := select_leaf(nodes[0], selection, closed, leaves)) is not None:
        leaves.append(leaf)

    assert Counter(leaves) == Counter(node for node in nodes if node.is_open and not node.children)
    assert not closed & {step for leaf in leaves for step in leaf.lineage}
    assert ([(node.visits, node.total) for node in nodes], closed) == before


@settings(max_examples=40, deadline=None)
@given(trees)
def test_a_node_is_closed_if_it_ended_or_all_its_children_are(nodes: list[SearchNode]) -> None:
    closed = close_ended(nodes)
    for node in nodes:
        all_below = bool(node.children) and all(child in closed for child in node.children)
        assert (node in closed) == (not node.is_open or all_below)


def test_nothing_is_selected_below_a_closed_start() -> None:
    root = SearchNode(OPEN)
    assert select_leaf(root, SelectionRule(), set(), []) is root
    assert select_leaf(root, SelectionRule(), {root}, []) is None
    assert select_leaf(root, SelectionRule(), set(), [root]) is None


def test_a_virtual_loss_sends_the_next_descent_elsewhere() -> None:
    root = SearchNode(OPEN, visits=4, total=1.0)
    root.children = [SearchNode(OPEN, root, visits=2, total=total) for total in (1.0, 0.5)]
    for child in root.children:
        child.children = [SearchNode(OPEN, child) for _ in range(2)]
    rule = SelectionRule(exploration=0.1)
    first = select_leaf(root, rule, set(), [])
    assert first is root.children[0].children[0]
    assert select_leaf(root, rule, set(), [first]) is root.children[1].children[0]


def test_a_value_counts_once_for_every_candidate_that_was_written_so() -> None:
    root = SearchNode(OPEN)
    for multiplicity, value in ((3, 1.0), (1, -1.0)):
        child = SearchNode(ENDED, root, multiplicity=multiplicity)
        root.children.append(child)
        back_up(child, value)
    assert (root.visits, root.value) == (4, 0.5)


def test_the_share_of_a_solution_is_the_product_of_its_steps_multiplicity_shares() -> None:
    root = SearchNode(OPEN)
    root.children = [SearchNode(OPEN, root, multiplicity=3), SearchNode(OPEN, root)]
    child = root.children[0]
    child.children = [SearchNode(ENDED, child, multiplicity=1), SearchNode(ENDED, child, multiplicity=1)]
    assert compute_share(child.children[0]) == 3 / 4 * 1 / 2


def test_the_votes_of_a_tree_are_weighed_in_one_unit() -> None:
    """Nine of ten candidates answer 7 alike; where the tenth has a score and they have none, they weigh nothing."""
    root = SearchNode(OPEN)

    def build_ends(*scores: float | None) -> list[SearchNode]:
        root.children = [
            SearchNode(
                ENDED, root, multiplicity=number, score=score, attempt=replace(ATTEMPT, answer_key=key)
            )
            for key, number, score in zip("74", (9, 1), scores, strict=True)
        ]
        return root.children

    unscored, scored = build_ends(None, None), build_ends(None, -0.5)
    assert weigh_votes(unscored, "weighted_vote") == weigh_votes(unscored, "score") == [0.9, 0.1]
    assert weigh_votes(scored, "weighted_vote") == [0.0, 0.25]
    assert weigh_votes(scored, "vote") == [1.0, 1.0]
    assert [choose_solution(scored, rule) for rule in ("score", "weighted_vote", "vote")] == [1, 1, 0]
