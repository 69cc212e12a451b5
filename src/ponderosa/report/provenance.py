"""Where the run came from: the resolved recipe, each stage's key and seeds, package versions, hardware."""

from pathlib import Path
from typing import Any

import yaml

from ponderosa.report.html import Html, tag
from ponderosa.report.numbers import MISSING
from ponderosa.report.run import Record, Run, as_list, as_record, as_records


def render_recipe(run: Run) -> Html:
    """The recipe as YAML, each stage with the configuration it resolved to."""
    if not run.recipe:
        return tag("p", "The resolved recipe is missing.", class_="missing")
    stages = [{"name": stage.name, **stage.config} for stage in run.stages if stage.config]
    resolved = {**run.recipe, "stages": stages or run.recipe.get("stages")}
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=100)
    return tag("details", tag("summary", "Every setting, defaults included"), tag("pre", tag("code", text)))


def describe_seeds(run: Run, row: Record) -> list[str]:
    """The training seeds behind a result row, and the seed its problems were drawn by, where its evaluation says it."""
    num_seeds = len(as_list(row.get("seeds")))
    trained = f"{num_seeds} training seeds" if num_seeds else f"training seed {row.get('seed', MISSING)}"
    for stage in run.stages:
        if stage.config.get("model") != row.get("stage"):
            continue
        for item in as_records(stage.config.get("suites")):
            names = (item.get("label") or Path(str(item.get("suite"))).name, item.get("suite"))
            if row.get("suite") in names and row.get("strategy") == item.get("strategy"):
                seed = stage.manifest.get("seed") if item.get("seed") is None else item["seed"]
                return [trained, f"problems drawn by seed {seed}"]
    return [trained]


def render_environment(run: Run) -> Html:
    """Versions and hardware, once for each distinct machine and installation, and the stages they ran."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for stage in run.stages:
        facts = {key: as_record(stage.manifest.get(key)) for key in ("hardware", "versions")}
        groups.setdefault(repr(facts), (facts, []))[1].append(stage.label)
    described = [
        _render_facts({**facts["hardware"], **facts["versions"]}, names)
        for facts, names in groups.values()
        if facts["hardware"] or facts["versions"]
    ]
    missing = tag("p", "No manifest names versions or hardware.", class_="missing")
    return tag("div", described or missing, _render_keys(run))


def _render_facts(facts: dict[str, Any], names: list[str]) -> Html:
    pairs = [tag("div", tag("dt", str(key)), tag("dd", str(value))) for key, value in facts.items()]
    return tag(
        "div", tag("p", "Stages: " + ", ".join(names), class_="note"), tag("dl", pairs, class_="facts")
    )


def _render_keys(run: Run) -> Html | None:
    if not run.stages:
        return None
    rows = [
        tag(
            "tr",
            [
                tag("td", cell)
                for cell in (
                    stage.label,
                    stage.kind,
                    tag("code", stage.key),
                    str(stage.manifest.get("seed", "—")),
                )
            ],
        )
        for stage in run.stages
    ]
    head = tag(
        "thead",
        tag("tr", [tag("th", name, scope="col") for name in ("stage", "kind", "key", "training seed")]),
    )
    table = tag("table", head, tag("tbody", rows), class_="keys")
    return tag("details", tag("summary", "Stage keys and seeds"), tag("div", table, class_="scroll"))
