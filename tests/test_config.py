"""Configuration: what is wrong is named, with what was seen, what is allowed and the nearest name."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from ponderosa.config import Config, load_yaml, parse_config, set_path, suggest_path
from ponderosa.errors import ConfigError
from ponderosa.identity import content_hash, derive_seed, hash_directory


class Leaf(Config):
    width: int = Field(1, ge=1)


class Tree(Config):
    name: str
    leaf: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = Field(default_factory=dict)
    maybe: Leaf | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'name' is required"),
        ({"name": "a", "laef": {}}, "unknown key 'laef'; did you mean 'leaf'"),
        ({"name": "a", "leaf": {"widht": 2}}, "unknown key 'leaf.widht'; did you mean 'width'"),
        ({"name": "a", "leaves": [{}, {"widht": 2}]}, "'leaves.1.widht'; did you mean 'width'"),
        ({"name": "a", "named": {"x": {"widht": 2}}}, "'named.x.widht'; did you mean 'width'"),
        ({"name": "a", "maybe": {"widht": 2}}, "'maybe.widht'; did you mean 'width'"),
        ({"name": "a", "leaf": {"width": 0}}, "'leaf.width'.* must be greater than or equal to 1, seen 0"),
        ({"name": "a", "leaf": {"width": "wide"}}, "'leaf.width'.* must be a whole number, seen 'wide'"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: .*{message}"):
        parse_config(Tree, values, where="here")


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match="'name' is required; unknown key 'x'"):
        parse_config(Tree, {"x": 1}, where="here")


def recipe() -> dict[str, Any]:
    return {
        "seed": 0,
        "stages": [{"name": "sft", "epochs": 1, "suites": [{"limit": 3}]}, {"name": "base"}],
    }


@pytest.mark.parametrize(
    ("assignment", "where", "value"),
    [
        ("seed=7", lambda r: r["seed"], 7),
        ("stages.sft.epochs=2", lambda r: r["stages"][0]["epochs"], 2),
        ("stages.base.model={width: 3}", lambda r: r["stages"][1]["model"], {"width": 3}),
        (
            "stages.base.train.optimizer.rate=0.1",
            lambda r: r["stages"][1]["train"]["optimizer"],
            {"rate": 0.1},
        ),
        ("stages.sft.suites.0.limit=5", lambda r: r["stages"][0]["suites"][0]["limit"], 5),
        ("base=some dir=odd", lambda r: r["base"], "some dir=odd"),
        ("base=", lambda r: r["base"], None),
    ],
)
def test_set_changes_one_value(assignment: str, where: Any, value: object) -> None:
    values = recipe()
    set_path(values, assignment)

    assert where(values) == value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "write path=value"),
        ("seed=[", "not valid YAML"),
        ("stages.stf.epochs=2", "did you mean 'sft'"),
        ("seed.x=1", "holds no keys"),
        ("seed.x.y=1", "inside a plain value"),
        ("stages.sft.suites.1.limit=5", "no place in a list of 1"),
    ],
)
def test_a_wrong_assignment_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_path(recipe(), assignment)


def test_a_value_under_an_anchor_is_changed_in_one_place_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages:\n- {name: a, suites: &s [{limit: 1}]}\n- {name: b, suites: *s}\n")
    values = load_yaml(path)

    set_path(values, "stages.a.suites.0.limit=9")

    assert [stage["suites"][0]["limit"] for stage in values["stages"]] == [9, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "not valid YAML"), (b"\xff\xfe\x00", "not a readable text file")],
)
def test_a_file_that_is_not_yaml_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "r.yaml")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match="not a readable text file"):
        load_yaml(tmp_path)


class Kinds(Config):
    rate: float = 0.0
    on: bool = False
    title: str = ""
    leaves: tuple[Leaf, ...] = ()
    leaf: Leaf = Leaf()
    options: dict[str, int] = Field(default_factory=dict)
    kind: Literal["a", "b"] = Field("a", description="which of the two.")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rate", "fast", "'rate' must be a number, seen 'fast'"),
        ("on", 7, "'on' must be true or false, seen 7"),
        ("title", 7, "'title' must be text, seen 7"),
        ("leaves", "x", "'leaves' must be a list, seen 'x'"),
        ("leaf", 7, "'leaf' must be a mapping of keys to values, seen 7"),
        ("options", 7, "'options' must be a mapping of keys to values, seen 7"),
        ("kind", "c", "'kind' (which of the two) must be 'a' or 'b', seen 'c'"),
    ],
)
def test_what_a_value_must_be_is_said_in_plain_words(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"here: {said}")):
        parse_config(Kinds, {key: value}, where="here")


def test_a_path_that_leads_nowhere_is_answered_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "report.html").touch()

    said = {
        name: suggest_path(tmp_path / name)
        for name in ("runs/quickstrat/report.html", "run/other", "runs/zzz", "runs/quickstart/report.html/x")
    }

    near = tmp_path / "runs" / "quickstart" / "report.html"
    assert list(said.values()) == [
        f"; did you mean {str(near)!r}?",
        f"; did you mean {str(tmp_path / 'runs')!r}?",
        f"; nearest in {tmp_path / 'runs'}: quickstart",
        f"; {near} is no folder",
    ]


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: !!python/object/apply:os.getcwd []")

    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(tmp_path / "r.yaml")


# Identity


def test_a_content_hash_ignores_the_order_of_keys() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1}) != content_hash({"a": 1})


def test_a_directory_hash_depends_on_names_and_bytes_and_not_on_the_place(tmp_path: Path) -> None:
    hashes = []
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        hashes.append(hash_directory(tmp_path / folder))

    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_neighbouring_seeds_share_nothing() -> None:
    drawn = [{derive_seed("rollout", seed, index) for index in range(500)} for seed in (42, 43)]

    assert drawn[0].isdisjoint(drawn[1])
    assert all(0 <= seed < 1 << 63 for seed in drawn[0])


def test_a_seed_depends_on_its_purpose() -> None:
    assert derive_seed("a", 1) != derive_seed("b", 1)
    assert derive_seed("a", 1, 2) != derive_seed("a", 12)


class Bough(Config):
    leaf: Leaf = Leaf(width=3)
    num_birds: int = 0


class Forest(Config):
    bough: Bough = Bough(leaf=Leaf(width=5), num_birds=2)


@pytest.mark.parametrize(
    ("values", "width", "num_birds"),
    [
        ({}, 5, 2),
        ({"bough": {}}, 5, 2),
        ({"bough": {"num_birds": 1}}, 5, 1),
        ({"bough": {"leaf": {"width": 7}}}, 7, 2),
        ({"bough": {"leaf": {}}}, 5, 2),
    ],
)
def test_a_block_given_in_part_keeps_its_defaults(values: dict[str, Any], width: int, num_birds: int) -> None:
    bough = parse_config(Forest, values, where="here").bough
    assert (bough.leaf.width, bough.num_birds) == (width, num_birds)
