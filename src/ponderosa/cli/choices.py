"""What there is to work with: `list` names it, `doctor` looks at this machine."""

from typing import Annotated

import typer

from ponderosa.errors import RequestError


def list_things(
    what: Annotated[str, typer.Argument(help="tasks, suites, strategies, engines, stages or recipes.")],
) -> None:
    """List what there is to choose from.

    \b
    Example: ponderosa list recipes
    """
    from ponderosa.catalogue import CATALOGUES
    from ponderosa.config import suggest

    if what not in CATALOGUES:
        raise RequestError(f"nothing is listed under {what!r}{suggest(what, CATALOGUES)}")
    for name, description in CATALOGUES[what]().items():
        print(f"{name:28} {description}".rstrip())


def doctor() -> None:
    """Say what this machine can do. Shows devices, sandbox tiers, optional packages and benchmark data.

    \b
    Example: ponderosa doctor
    """
    from ponderosa.catalogue import examine_machine

    for name, finding in examine_machine().items():
        print(f"{name:18} {finding}")
