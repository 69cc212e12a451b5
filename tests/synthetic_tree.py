"""A realistic search tree of any size, grown by a search without a model: expand, run, back up."""

from dataclasses import dataclass, field, replace
from random import Random

from ponderosa.records import Cost, GradedTree, Node, Problem, Step, Tree, Verdict
from ponderosa.shown_trees import ShownTree
from ponderosa.stages.tree_samples import show_graded

QUESTION = (
    "Ada has 14 marbles. Ben has 3 times as many marbles as Ada. Cleo has 5 fewer marbles than Ben. Dora has as many as "
    "Ada and Cleo together. How many marbles does Dora have?"
)
NAMES = ("ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana")
_MOST_STEPS = 8
RIGHT = Verdict(True, "correct", "answer@1")
WRONG = Verdict(False, "wrong_answer", "answer@1")
REFUTED = Verdict(False, "refuted", "answer@1+renumbering")
DEAD = Verdict(False, "code_error", "answer@1")


@dataclass
class Growing:
    """A tree while it grows."""

    random: Random
    nodes: list[Node] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def expand(self, parent: int | None, num_candidates: int) -> None:
        depth = 0 if parent is None else self.depths[parent] + 1
        for _ in range(num_candidates):
            place = len(self.nodes)
            node, verdict = self._write(parent, depth)
            self.nodes.append(node)
            self.depths.append(depth)
            if verdict is not None:
                self.verdicts[place] = verdict
                self._back_up(place, 1.0 if verdict.correct else -1.0)

    def choose_open(self) -> int:
        """A node to expand: any that can go on, those of high value more often."""
        open_places = [place for place, node in enumerate(self.nodes) if node.finish is None]
        return max(
            self.random.sample(open_places, min(4, len(open_places))), key=lambda one: self.nodes[one].value
        )

    def _write(self, parent: int | None, depth: int) -> tuple[Node, Verdict | None]:
        random = self.random
        name, before = NAMES[depth % len(NAMES)], NAMES[(depth - 1) % len(NAMES)]
        number = random.randrange(2, 60)
        code = (
            f"# {name.title()} has {number} more marbles than {before.title()}.\n"
            f"{name} = {before} + {number}\nprint({name})"
        )
        step = Step(code, code, str(14 + number * (depth + 1)), "ok")
        node = Node(parent, (), (), (), (), step, random.choice((1, 1, 1, 2, 5)), random.random(), 0, 0.0, round(random.uniform(-1, 1), 3), None, None, None)  # fmt: skip
        if random.random() < 0.12 and depth:
            failed = Step(code, code, f"NameError: name '{before}' is not defined", "error")
            return replace(node, step=failed, finish="stop"), DEAD
        if depth >= 2 and (depth == _MOST_STEPS or random.random() < 0.3):
            answer = random.choice(("51", "51", "37", "148", "9"))
            code = f"# Now print the final answer.\nprint('\\\\boxed{{{answer}}}')"
            ending = Step(code, code, f"\\boxed{{{answer}}}", "ok")
            verdict = RIGHT if answer == "51" else WRONG
            return replace(node, step=ending, finish="stop", answer=answer, answer_key=answer), verdict
        return node, None

    def _back_up(self, place: int | None, reward: float) -> None:
        while place is not None:
            node = self.nodes[place]
            visits = node.visits + 1
            value = node.value + (reward - node.value) / visits
            self.nodes[place] = replace(node, visits=visits, value=value)
            place = node.parent


def grow_tree(num_nodes: int, *, seed: int = 0, problem_id: str = "9c1f") -> GradedTree:
    """A tree of exactly this many nodes with its verdicts."""
    growing = Growing(Random(seed))
    growing.expand(None, min(8, num_nodes))
    while len(growing.nodes) < num_nodes:
        growing.expand(growing.choose_open(), min(8, num_nodes - len(growing.nodes)))
    cost = Cost(88, 412, 31 * num_nodes, 31 * num_nodes, num_nodes, 1.7e8 * num_nodes)
    tree = Tree(problem_id, (), tuple(growing.nodes), "budget", cost, "mcts", "sft-0f3a", "ppm-77aa", seed)
    return GradedTree(tree, growing.verdicts)


def show_tree(num_nodes: int, *, seed: int = 0) -> ShownTree:
    """Such a tree as a reader is shown it."""
    return show_graded(Problem(QUESTION, "51"), grow_tree(num_nodes, seed=seed), "most steps")
