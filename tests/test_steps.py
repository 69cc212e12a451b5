"""The step format and prompt formats."""

import json
from pathlib import Path

import pytest

from ponderosa.errors import ConfigError
from ponderosa.formats import (
    CHAT_PROSE,
    FORMATS,
    PLAIN_CODE,
    PLAIN_PROSE,
    PromptFormat,
    get_format,
    load_format,
)
from ponderosa.records import Step
from ponderosa.steps import (
    FENCED_DELIMITERS,
    SPECIAL_DELIMITERS,
    Example,
    Segment,
    Special,
    parse_code,
    render_observation,
    render_steps,
)

CODE = "# Tom has 4 more apples than Bo.\ntom = bo + 4"
STEPS = (
    Step(text=CODE, code=CODE),
    Step(text="print(tom)", code="print(tom)", observation="9", outcome="ok"),
)


def test_steps_of_a_grown_model_are_closed_by_special_tokens() -> None:
    segments = render_steps(STEPS, SPECIAL_DELIMITERS)

    assert [(segment.text, segment.is_sampled) for segment in segments] == [
        ("\n", True),
        (CODE, True),
        ("<|end_of_step|>", True),
        ("print(tom)", True),
        ("<|end_of_step|>", True),
        ("<|output|>", False),
        ("9", False),
        ("<|end_of_output|>", False),
    ]
    assert [isinstance(segment.text, Special) for segment in segments] == [
        *(False, False, True, False, True, True, False, True)
    ]


def test_steps_of_a_foreign_model_are_fenced_and_hold_no_special_token() -> None:
    segments = render_steps(STEPS, FENCED_DELIMITERS)

    assert "".join(segment.text for segment in segments) == (
        f"\n```python\n{CODE}\n```\n```python\nprint(tom)\n```\n```output\n9\n```\n"
    )
    assert not any(isinstance(segment.text, Special) for segment in segments)
    assert [segment.text for segment in segments if not segment.is_sampled] == ["```output\n", "9", "\n```\n"]


def test_a_step_that_is_fenced_already_is_not_fenced_twice() -> None:
    text = f"First,\n```python\n{CODE}"

    segments = render_steps([Step(text=text, code=CODE)], FENCED_DELIMITERS)

    assert segments[1] == Segment(text, True)


def test_observations_are_never_the_models() -> None:
    for delimiters in (SPECIAL_DELIMITERS, FENCED_DELIMITERS):
        rendered = render_observation("9", delimiters)
        unsampled = [segment.text for segment in render_steps(STEPS, delimiters) if not segment.is_sampled]
        assert unsampled == rendered


def test_a_step_that_printed_nothing_has_no_observation() -> None:
    assert render_observation(None, SPECIAL_DELIMITERS) == []
    assert render_observation("", SPECIAL_DELIMITERS) == []


def test_a_delimiter_spelled_in_a_step_stays_text() -> None:
    (_, segment, _) = render_steps([Step(text="x = '<|end_of_step|>'", code="x")], SPECIAL_DELIMITERS)

    assert not isinstance(segment.text, Special)


def test_prose_steps_are_written_as_they_are() -> None:
    assert render_steps([Step(text="So it is 9.")], FENCED_DELIMITERS) == [
        Segment("\n", True),
        Segment("So it is 9.", True),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"\n{CODE}\n", CODE),
        ("\n\n", None),
        ("", None),
        ("  indented", "  indented"),
    ],
)
def test_the_code_of_a_grown_models_step_is_its_text(text: str, code: str | None) -> None:
    assert parse_code(text, SPECIAL_DELIMITERS) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"First.\n```python\n{CODE}", CODE),
        (f"```python\nold\n```\nthen\n```python\n{CODE}", CODE),
        ("no fence", None),
        ("```python\n  \n", None),
        (f"```py\n{CODE}", None),
    ],
)
def test_the_code_of_a_foreign_models_step_is_what_the_last_fence_opens(text: str, code: str | None) -> None:
    assert parse_code(text, FENCED_DELIMITERS) == code


@pytest.mark.parametrize("delimiters", [SPECIAL_DELIMITERS, FENCED_DELIMITERS])
def test_code_that_was_rendered_is_parsed_back(delimiters: object) -> None:
    segments = render_steps([STEPS[0]], delimiters)  # type: ignore[arg-type]

    assert parse_code(segments[1].text, delimiters) == CODE  # type: ignore[arg-type]


# Formats


def test_a_plain_prompt_shows_its_examples_before_the_question() -> None:
    prompt_format = PLAIN_PROSE.model_copy(
        update={"system": "Be brief.", "few_shot": (Example("1 + 1?", " 2"),)}
    )

    assert prompt_format.render_plain("2 + 2?") == (
        "Be brief.\n\nQuestion: 1 + 1?\nSolution: 2\n\nQuestion: 2 + 2?\nSolution:"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_a_saved_format_is_loaded_as_it_was(name: str, tmp_path: Path) -> None:
    saved = get_format(name).model_copy(update={"few_shot": (Example("q", "s"),)})
    (tmp_path / "prompt_format.json").write_text(json.dumps(saved.model_dump(mode="json")))

    assert load_format(tmp_path) == saved


def test_a_foreign_directory_gets_its_chat_template_and_prose(tmp_path: Path) -> None:
    assert load_format(tmp_path) == CHAT_PROSE


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x", "layuot": "plain"}', '{"layout": "plain"}'])
def test_a_format_file_that_describes_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "prompt_format.json").write_text(content)

    with pytest.raises(ConfigError, match=r"prompt_format\.json in .* does not describe a prompt format"):
        load_format(tmp_path)


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="plain-code"):
        get_format("plian")


def test_a_format_says_whether_solutions_are_code() -> None:
    assert (PLAIN_CODE.solution, PLAIN_PROSE.solution) == ("code", "prose")
    assert PromptFormat(name="own").delimiters == SPECIAL_DELIMITERS
