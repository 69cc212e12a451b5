"""The report: one self-contained HTML page made from a run folder. No script, no request to anywhere."""

from importlib.resources import files
from pathlib import Path

from ponderosa.artifacts import write_text
from ponderosa.report.attempts import render_attempts
from ponderosa.report.costs import render_costs, render_yields
from ponderosa.report.first_errors import render_first_errors
from ponderosa.report.html import Child, Html, join, tag
from ponderosa.report.preferences import render_preferences
from ponderosa.report.provenance import render_environment, render_recipe
from ponderosa.report.reinforcement import render_reinforcement
from ponderosa.report.results import (
    render_headline,
    render_samples_curve,
    render_slices,
    render_stage_tables,
    render_totals,
)
from ponderosa.report.reward_models import render_reward_models
from ponderosa.report.rounds import render_rounds
from ponderosa.report.run import Run, load_run
from ponderosa.report.strategies import render_strategies
from ponderosa.report.sweep import render_arm_tables
from ponderosa.report.training_curves import render_training
from ponderosa.report.trees import LEGEND, render_tree, render_trees
from ponderosa.shown_trees import ShownTree

REPORT_FILE = "report.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_SEEDS = (
    "Over several training seeds, intervals resample seeds and problems together. A p-value is of the values averaged "
    "over seeds, by problem: it says that these trained models differ, not that other seeds would show it again; the "
    "interval of the difference and the range of the seeds speak of that."
)
"""How to read what is over several seeds."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder and return its path. Missing pieces are shown as missing."""
    path = run_dir / REPORT_FILE
    write_text(path, render_page(load_run(run_dir)))
    return path


def write_tree_page(path: Path, shown: ShownTree) -> None:
    """Write one tree as a page of its own."""
    write_text(path, render_tree_page(shown))


def render_tree_page(shown: ShownTree) -> Html:
    """The whole page of one tree."""
    heading = tag("header", tag("p", "Ponderosa tree", class_="kicker"), tag("p", LEGEND, class_="intro"))
    return _render_document("Search tree", [heading, render_tree(shown)])


def render_page(run: Run) -> Html:
    """The whole page of a run."""
    sections = [(title, intro, content) for title, intro, content in _list_sections(run) if content]
    links = [tag("a", title, href=f"#{_anchor(title)}") for title, _, _ in sections]
    body = [
        tag("section", tag("h2", title), tag("p", intro, class_="intro"), content, id=_anchor(title))
        for title, intro, content in sections
    ]
    return _render_document(run.name, [_render_header(run), tag("nav", links), body, _render_notes(run)])


def _list_sections(run: Run) -> list[tuple[str, str, Html | None]]:
    """Title, what the reader sees, and the content; None where it does not apply to this run."""
    has_seeds = any(row.get("seeds") for row in run.rows)
    arms = render_arm_tables(run)
    reinforcement = render_reinforcement(run)
    training = render_training(run)
    return [
        (
            "Arms",
            "The same recipe with a few values changed, each arm against the first or those it names. Truncated: "
            "solutions that the token limit cut off. Holm p is corrected over all tests of the sweep. "
            f"{_SEEDS if has_seeds else ''}",
            arms,
        ),
        (
            "Stages",
            "Every model under the same problems, grader, token limit and seed. Intervals are 95%: Wilson for one answer "
            "per problem, bootstrap by problem for several. Tests are exact, two-sided and paired on the same problems. "
            f"{_SEEDS if has_seeds and arms is None else ''}",
            render_stage_tables(run),
        ),
        ("Accuracy by slice", "Dots are means, whiskers 95% intervals.", render_slices(run)),
        (
            "More samples",
            "pass@k: at least one of k samples is right, estimated without bias. majority@k: the most frequent answer of "
            "k is right, averaged over all subsets; a tie scores its expectation.",
            render_samples_curve(run),
        ),
        (
            "Rounds",
            "A round is a search, and the policies that were trained on its trees. Coverage: problems with a right solution "
            "in their trees. False positives: of a problem's right answers the share whose program is wrong on other "
            "numbers; these do not count as right. FLOP: of the search, or of training the policy. Brackets are 95% "
            "intervals; over several training seeds, figures are means with the range of the seeds. Tests are paired, against the "
            "search before on the same problems; what is coloured has Holm p below 0.01 and an interval without 0. Columns are the slices that were searched. The chart has the searches that nothing was trained on, where there are any.",
            render_rounds(run),
        ),
        (
            "Reward models",
            "On trees of problems that no reward model learned from. Pairs: how often the better one of two has the higher score. "
            "Success is +1 where all solutions below a node are right, -1 where all are wrong; a score is mapped to it by one monotone "
            "curve. Squared error is of that map, fitted on half of the problems for the other half; explained is by how much it is below "
            "that of a constant: below 0 a score says less about success than the mean of all does. On a good curve dots lie on the diagonal. Brackets and whiskers are 95% "
            "intervals over problems.",
            render_reward_models(run),
        ),
        (
            "Strategies at equal budget",
            "One model on the same problems by every strategy, under the same budgets of tokens for a problem: prefilled, "
            "sampled and scored. Dots stand where the tokens that were really computed are. The first strategy is drawn in "
            "every chart, with its 95% interval as a band; the others are tested against it under the same budget, exactly, "
            "two-sided and paired on the same problems. Holm p is corrected over all tests of the comparison. FLOPs are "
            "counted, seconds measured. Over several training seeds, figures are means with the range of the seeds.",
            render_strategies(run),
        ),
        (
            "First wrong steps",
            "Reward models on solutions whose steps are labelled. The first step with a signal below a threshold is said to "
            "be wrong: its score, or the drop from the score before it. The threshold is chosen on half of the solutions, "
            "figures are of the other half. F1 is the harmonic mean of the two shares. Brackets are 95% intervals; over "
            "several training seeds, figures are means with the range of the seeds. Tests are paired, on the same solutions.",
            render_first_errors(run),
        ),
        (
            "Training",
            "Loss per token (per pair in preference training) on what carries loss, logarithmic; faint: single steps.",
            training if reinforcement else _or_missing(training, "training metrics"),
        ),
        (
            "Preferences",
            "How much more is given to the chosen attempt or step of a pair than to the other, by optimizer step, before "
            "it is trained on. With a reward model that margin is between its two scores. With DPO it is of implicit reward (β times how "
            "much more the model has come to favour the chosen attempt; 0 before training), drawn against how much longer "
            "that attempt is, too: a curve that rises or falls throughout is a preference for length. Dots are means over "
            "problems, whiskers 95% intervals.",
            render_preferences(run),
        ),
        (
            "Reinforcement learning",
            "What the policy's own attempts earned, step by step, and how it changed; faint: single steps, below each "
            "chart the mean of the first tenth of the steps → that of the last. Mismatch is how far the probabilities "
            "that attempts were sampled with are from those the trainer computes: rounding, and from the second update "
            "of the same attempts on, what the policy has moved.",
            reinforcement,
        ),
        (
            "Attempts",
            "What the models wrote, step by step. Steps of code were executed; what they printed follows them.",
            _or_missing(render_attempts(run), "sample attempts"),
        ),
        ("Search trees", LEGEND, render_trees(run)),
        (
            "Data yield",
            "What stages that select kept, and what any stage left out, by reason.",
            render_yields(run),
        ),
        (
            "Costs",
            "FLOP counts are computed from tokens, seconds are measured.",
            _or_missing(render_costs(run), "ledgers"),
        ),
        ("Recipe", "What this run did, with every default resolved.", render_recipe(run)),
        ("Environment", "Where it ran.", render_environment(run)),
    ]


def _render_header(run: Run) -> Html:
    claim = run.recipe.get("description")
    return tag(
        "header",
        tag("p", "Ponderosa run", class_="kicker"),
        tag("h1", run.name),
        tag("p", str(claim), class_="claim") if claim else None,
        render_headline(run),
        render_totals(run),
        class_="top",
    )


def _render_notes(run: Run) -> Html | None:
    if not run.notes:
        return None
    notes = tag("ul", [tag("li", note) for note in run.notes])
    return tag("section", tag("h2", "Missing"), notes, id="missing", class_="missing")


def _or_missing(content: Html | None, what: str) -> Html:
    return content or tag("p", f"No stage left {what}.", class_="missing")


def _render_document(title: str, content: Child) -> Html:
    style = "".join(
        files("ponderosa.report").joinpath(name).read_text("utf-8") for name in ("charts.css", "page.css")
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · Ponderosa"),
        tag("style", Html(style)),
    )
    page = tag("html", head, tag("body", tag("main", content)), lang="en")
    return join([Html("<!doctype html>\n"), page, Html("\n")])


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
