"""When two solutions are the same program: layout, comments and the choice of names do not count."""

import ast
import warnings
from collections.abc import Sequence

from ponderosa.records import Step


def canonicalise_program(steps: Sequence[Step]) -> str | None:
    """One spelling for all programs that differ only in layout, comments and the names they assign.

    The code of every step is read as one program. None if no step holds code, or if it does not parse.
    """
    code = "\n".join(step.code for step in steps if step.code is not None)
    if not code.strip():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            return ast.dump(_Renaming(tree).visit(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what a model writes need not parse
        return None


class _Renaming(ast.NodeTransformer):
    """Names that the program binds become v0, v1, ... in the order in which they are met.

    A name that is also spelled where it cannot be told from another thing (a keyword, a string, a handler) stays.
    """

    _RENAMED = frozenset({(ast.Name, "id"), (ast.arg, "arg"), (ast.FunctionDef, "name")})

    def __init__(self, tree: ast.Module) -> None:
        bound: set[str] = set()
        fixed: set[str] = set()
        for node in ast.walk(tree):
            for field, value in ast.iter_fields(node):
                names = {
                    name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)
                }
                if (type(node), field) not in self._RENAMED:
                    fixed |= names
                elif not isinstance(getattr(node, "ctx", None), ast.Load):
                    bound |= names
        self._bound = bound - fixed
        self._names: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self._rename(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self._rename(node.arg)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._rename(node.name)
        return self.generic_visit(node)

    def _rename(self, name: str) -> str:
        return self._names.setdefault(name, f"v{len(self._names)}") if name in self._bound else name
