"""What there is to work with: `list` names it, `doctor` looks at this machine."""

from collections.abc import Mapping
from typing import Annotated

import typer

from ponderosa.errors import RequestError

KINDS = {
    "tasks": "where problems come from (`task:` in a recipe)",
    "suites": "what models are measured on (`evaluate --suite`)",
    "strategies": "ways to look for a solution (`--strategy`)",
    "engines": "what generates tokens",
    "stages": "what recipes are made of (`use:` in a recipe)",
    "recipes": "what there is to `run`",
}


def list_things(
    what: Annotated[
        str | None,
        typer.Argument(
            help="tasks, suites, strategies, engines, stages or recipes; default: say what these are."
        ),
    ] = None,
) -> None:
    """List what there is to choose from.

    \b
    Example: ponderosa list recipes
    """
    from ponderosa.catalogue import CATALOGUES
    from ponderosa.config import suggest

    if what is None:
        _print_choices(KINDS)
        print("\nTheir names: `ponderosa list KIND`, such as `ponderosa list recipes`")
        return
    if what not in CATALOGUES:
        raise RequestError(f"nothing is listed under {what!r}{suggest(what, CATALOGUES)}")
    _print_choices(CATALOGUES[what]())


def _print_choices(choices: Mapping[str, str]) -> None:
    for name, description in choices.items():
        print(f"{name:28} {description}".rstrip())


def doctor() -> None:
    """Say what this machine can do. Shows devices, sandbox tiers, optional packages and benchmark data.

    \b
    Example: ponderosa doctor
    """
    from ponderosa.catalogue import examine_machine

    for name, finding in examine_machine().items():
        print(f"{name:18} {finding}")
