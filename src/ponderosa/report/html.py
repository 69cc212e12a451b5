"""HTML in which text cannot become markup: whatever is not already `Html` is escaped when it enters a tag."""

from collections.abc import Iterable
from typing import TypeAlias

from ponderosa.report.escape import escape_html

_VOID = frozenset({"meta", "br", "input", "line", "rect", "circle", "path", "polyline"})


class Html(str):
    """A string that is markup."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """One element. `class_` writes class, `data_label` writes data-label; attributes that are None are left out."""
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape_html(_spell(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{spelled}>") if name in {"meta", "br"} else Html(f"<{name}{spelled}/>")
    return Html(f"<{name}{spelled}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Children in order: markup as it is, text escaped, None left out."""
    return Html("".join(_render(child) for child in children))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):
        return escape_html(child)
    return join(child)


def _spell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, int) else f"{value:.4g}"
