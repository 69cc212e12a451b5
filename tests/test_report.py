"""The report page: what it shows of a whole run, of half a run, and of nothing; and that hostile text stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from shutil import copytree

import pytest

from ponderosa.artifacts import read_json, write_json
from ponderosa.report import write_report
from ponderosa.report.numbers import format_interval, format_tick
from ponderosa.report.terminal import render_run_table
from synthetic_run import build_run
from synthetic_sweep import ARMS, build_sweep

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "style": "</style><img src=x onerror=alert(1)>",
    "attribute": "\" onmouseover='alert(1)' x=\"",
    "comment": "--><b>bold</b><!--",
    "entity": "&lt;b&gt; &amp;",
    "ansi": "\x1b[31mred\x1b]0;title\x07",
    "bidi": "abc\u202edcba\u2066x\u2069",
    "nul": "a\x00b\x7fc\x9bd",
    "surrogate": "half \ud83d of a pair",
    "separators": "one\u2028two\u2029three",
    "zero_width": "pass\u200bword\ufeff",
    "long": "9" * 5_000,
    "cdata": "]]><svg/onload=alert(1)>",
}
ALLOWED_ATTRIBUTES = {
    *(
        "class",
        "id",
        "href",
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "style",
        "title",
        "open",
        "scope",
    ),
    *("dir", "data-label", "viewbox", "role", "aria-hidden", "points", "x", "y", "x1", "x2", "y1", "y2"),
    *("width", "height", "rx", "cx", "cy", "r"),
}


class Page(HTMLParser):
    """Elements, attributes and text of a page; checks that every element that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run_dir) -> Page:
    return Page(write_report(run_dir).read_text("utf-8"))


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(run_dir, page) -> None:
    text = (run_dir / "report.html").read_text("utf-8")
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", text)
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert any(
        value.startswith("default-src 'none';") for name, value in page.attributes if name == "content"
    )


def test_the_page_shows_the_claim_the_stages_their_intervals_and_paired_tests(run_dir, page) -> None:
    summary = read_json(run_dir / "summary.json")
    assert "grown from nothing in ten minutes" in page.text
    for row in summary["rows"]:
        if row["metric"] == "pass@1":
            assert f"{100 * row['value']:.1f}%" in page.text
            assert f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]" in page.text
    for test in summary["tests"]:
        assert f"+{100 * (test['value_b'] - test['value_a']):.1f} points" in page.text
        assert f"p = {test['p_value']:.2g} vs {test['a']}" in page.text


def test_the_page_shows_curves_attempts_yields_costs_recipe_and_hardware(page) -> None:
    for name in ("pretrain", "midtrain", "sft"):
        assert f"Loss of {name}" in page.text
    for piece in ("cleo = ben - 5", "NameError: name 'baskets' is not defined", "wrong answer", "193.5"):
        assert piece in page.text
    for piece in (
        "59,412 of 60,000 problems kept (99.0%)",
        "duplicate",
        "401",
        "83.5T",
        "7 min 57 s",
        "width: 192",
        "x86_64 with AVX-512",
    ):
        assert piece in page.text


def test_training_is_told_in_words_with_units(page) -> None:
    for line in (
        "1,896 optimizer steps over 4.09M tokens · loss",
        "1.91M parameters",
        "18,903 tokens a second (median of steps)",
    ):
        assert line in page.text


def test_an_attempt_says_its_slice_and_what_its_tokens_are(page) -> None:
    assert "operations 2 · 61 tokens written" in page.text
    assert "operations 1 · 160 tokens written · cut at the token limit" in page.text


def test_the_results_name_the_seed_of_the_training_and_that_of_the_problems(tmp_path) -> None:
    run = build_run(tmp_path)
    assert "· training seed 7" in Page(write_report(run).read_text("utf-8")).text
    for path in run.glob("stages/evaluate-*/config.json"):
        suite = {"suite": "quantities", "strategy": "greedy", "seed": 9176, "label": None}
        other = {**suite, "suite": "svamp", "seed": 1}
        write_json(path, {"model": path.parent.name.split("-")[1], "suites": [other, suite]})
    assert (
        "· training seed 7 · problems drawn by seed 9176" in Page(write_report(run).read_text("utf-8")).text
    )


def test_stages_that_select_nothing_and_drop_nothing_have_no_yield(tmp_path) -> None:
    run = build_run(tmp_path)
    for name, counts in (
        ("pretrain", {"kept": 99, "dropped": {}}),
        ("sft", {"kept": 5, "dropped": {"too_long": 3}}),
    ):
        [path] = run.glob(f"stages/{name}-*/manifest.json")
        write_json(path, {**read_json(path), "counts": counts})
    [section] = re.findall(
        r'<section id="data-yield">.*?</section>', write_report(run).read_text("utf-8"), re.S
    )
    assert re.findall(r"<figcaption><b>(.*?)</b><span>(.*?)</span>", section) == [
        ("problems", "59,412 of 60,000 problems kept (99.0%)"),
        ("sft", "3 left out"),
    ]
    assert "too long" in section


def test_labels_of_very_small_values_are_short_and_exact() -> None:
    for value in (1e-9, 2e-5, 0.0001, 0.00015, 0.002, 0.25, 5.0, -0.0005, 0.0):
        assert float(format_tick(value)) == value
        assert len(format_tick(value)) <= 6


def test_the_page_is_the_same_whenever_it_is_written(run_dir) -> None:
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_anywhere_in_a_run_stays_visible_text(kind, tmp_path) -> None:
    hostile = HOSTILE[kind]
    run = _poison(tmp_path, hostile)
    text = write_report(run).read_bytes().decode("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert {name for name, _ in page.attributes} <= ALLOWED_ATTRIBUTES
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", text
    )


def _poison(folder: Path, hostile: str) -> Path:
    """A run in which every string a user or model could have written is hostile."""
    run = build_run(folder / "run")
    for path in [*run.rglob("*.json")]:
        value = read_json(path)
        path.write_text(json.dumps(_replace_strings(value, hostile)), "utf-8")
    return run


def _replace_strings(value, hostile: str):
    kept = {"slice", "metric", "stages"}
    if isinstance(value, dict):
        return {key: item if key in kept else _replace_strings(item, hostile) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_strings(item, hostile) for item in value]
    return hostile if isinstance(value, str) else value


def test_hidden_characters_are_named_where_they_stand(tmp_path) -> None:
    run = _poison(tmp_path, "a\x1b[31m\u202eb\x00\ud800")
    assert "a⟨U+001B⟩[31m⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩" in Page(write_report(run).read_text("utf-8")).text


def test_long_model_text_is_cut_and_says_by_how_much(tmp_path) -> None:
    run = build_run(tmp_path)
    [folder] = run.glob("stages/evaluate-sft-*")
    samples = read_json(folder / "samples.json")
    samples[0]["question"] = "7" * 10_000
    write_json(folder / "samples.json", samples)
    assert "… (6,000 more characters)" in Page(write_report(run).read_text("utf-8")).text


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path) -> None:
    page = Page(write_report(tmp_path).read_text("utf-8"))
    for piece in ("recipe.json is missing", "summary.json is missing", "No model has been evaluated yet"):
        assert piece in page.text


@pytest.mark.parametrize(
    "name", ["manifest.json", "config.json", "metrics.jsonl", "rows.json", "tests.json", "samples.json"]
)
@pytest.mark.parametrize("damage", [None, b"", b'{"rows": [', b'[1, null, "x"]', b"\xff\xfe", b"null"])
def test_a_missing_or_damaged_stage_file_never_stops_the_report(name, damage, tmp_path) -> None:
    run = build_run(tmp_path)
    for path in run.glob(f"stages/*/{name}"):
        path.unlink() if damage is None else path.write_bytes(damage)
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    if name == "manifest.json" and damage is None:
        assert "manifest.json is missing" in page.text
    if damage == b"\xff\xfe" and name != "metrics.jsonl":
        assert "cannot be read (UnicodeDecodeError)" in page.text


def test_an_unfinished_run_shows_the_rows_its_stages_have_and_says_so(tmp_path) -> None:
    run = build_run(tmp_path)
    (run / "summary.json").unlink()
    [folder] = run.glob("stages/sft-*")
    (folder / "DONE").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 421, "lo')
    page = Page(write_report(run).read_text("utf-8"))
    assert "81.6%" in page.text
    assert "stage sft is unfinished" in page.text


JUNK = (
    None,
    True,
    -1,
    0,
    1e308,
    float("inf"),
    float("nan"),
    10**400,
    "",
    "=",
    "a=b",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
)


@pytest.mark.parametrize("share", [0.003, 0.02, 0.1])
def test_values_of_any_wrong_kind_anywhere_never_stop_the_report(share, sweep_dir, tmp_path) -> None:
    random = Random(1)
    for round_number in range(6):
        run = tmp_path / str(round_number)
        if round_number < 4:
            build_run(run)
        else:
            copytree(sweep_dir, run)
        for path in run.rglob("*.json"):
            path.write_text(json.dumps(_replace_some(read_json(path), share, random)), "utf-8")
        assert Page(write_report(run).read_text("utf-8")).open == []
        render_run_table(run)


def _replace_some(value, share: float, random: Random):
    if random.random() < share:
        return random.choice(JUNK)
    if isinstance(value, dict):
        return {key: _replace_some(item, share, random) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_some(item, share, random) for item in value]
    return value


def test_several_samples_add_the_curves_over_k(tmp_path) -> None:
    run = build_run(tmp_path)
    summary = read_json(run / "summary.json")
    base = next(row for row in summary["rows"] if row["slice"] == "all" and row["metric"] == "pass@1")
    summary["rows"] += [
        {**base, "strategy": "sample", "samples": 8, "metric": f"{kind}@{k}", "value": 0.1 * k**0.5}
        for kind, ks in (("pass", (1, 2, 4, 8)), ("majority", (4, 8)))
        for k in ks
    ]
    write_json(run / "summary.json", summary)
    page = Page(write_report(run).read_text("utf-8"))
    assert "pass@k on quantities" in page.text
    assert "majority@k on quantities" in page.text


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory) -> Path:
    return build_sweep(tmp_path_factory.mktemp("sweep"))


def test_a_sweep_shows_each_arm_against_the_first_and_says_what_the_test_says(sweep_dir) -> None:
    summary = read_json(sweep_dir / "summary.json")
    page = Page(write_report(sweep_dir).read_text("utf-8"))
    assert page.open == []
    for arm in ARMS:
        assert arm in page.text
    for test in summary["sweep"]["tests"]:
        points = f"{100 * (test['value_b'] - test['value_a']):+.1f}".replace("-", "−")
        interval = format_interval(test["low"], test["high"])
        assert f"{points} points {interval} p = {test['p_value']:.2g}" in page.text
        assert f"{test['p_holm']:.2g}" in page.text
        own = test["by_seed"][0]
        assert any(f"seed 0: {100 * (own['value_b'] - own['value_a']):+.1f}".replace("-", "−") in value
                   for name, value in page.attributes if name == "title")  # fmt: skip
    assert "it says that these trained models differ" in page.text


def test_seeds_are_one_line_with_their_range_and_shared_stages_come_once(sweep_dir) -> None:
    page = Page(write_report(sweep_dir).read_text("utf-8"))
    rows = read_json(sweep_dir / "summary.json")["rows"]
    of_base = [
        row["value"]
        for row in rows
        if (row["stage"], row["slice"], row["metric"]) == ("base", "all", "pass@1")
    ]
    assert f"{100 * min(of_base):.1f}–{100 * max(of_base):.1f}%" in page.text
    assert page.text.count("3 training seeds") == 2
    assert "base, copying" not in page.text
    assert "midtrain, no-copying, seed 2" in page.text


def test_a_sweep_whose_tests_are_not_made_yet_shows_every_seed_of_every_arm(sweep_dir, tmp_path) -> None:
    summary = read_json(sweep_dir / "summary.json")
    rows = [row for row in summary["rows"] if "seeds" not in row]
    sweep = {**summary["sweep"], "tests": []}
    write_json(tmp_path / "summary.json", {**summary, "rows": rows, "tests": [], "sweep": sweep})
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "Arms" not in page.text
    assert "midtrain, no-copying, seed 2" in page.text
    assert "base, seed 0" in page.text


def test_folders_of_earlier_settings_are_left_out(tmp_path) -> None:
    run = build_run(tmp_path)
    [folder] = run.glob("stages/sft-*")
    folder.with_name("sft-older").mkdir()
    (folder.with_name("sft-older") / "manifest.json").write_text(
        '{"stage": "sft", "kind": "sft", "key": "older"}'
    )
    assert "older" not in Page(write_report(run).read_text("utf-8")).text


def test_an_interval_has_no_negative_zero() -> None:
    assert format_interval(-0.0004, 0.167) == "[0.0, 16.7]"
    assert format_interval(-0.0006, -0.0001) == "[−0.1, 0.0]"
