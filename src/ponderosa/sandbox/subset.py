"""Which tier covers a piece of code, told from its syntax tree before anything runs.

Monty gets plain calculation: what is listed here behaves there as in CPython (docs/sandbox.md lists what was
compared and what differs). Everything else goes to CPython, so a construct that Monty lacks, or that an
exception handler could hide, never reaches it.
"""

import ast
import builtins
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from ponderosa.sandbox.execution import Tier

MAX_MONTY_CHARS = 20_000

_NODES: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr),
    *(ast.If, ast.For, ast.While, ast.Break, ast.Continue, ast.Pass, ast.Assert),
    *(ast.FunctionDef, ast.Lambda, ast.arguments, ast.arg, ast.Return, ast.Global),
    *(ast.Call, ast.keyword, ast.Starred, ast.Name, ast.Attribute, ast.Constant),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
    *(ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
    *(ast.JoinedStr, ast.FormattedValue, ast.Import, ast.ImportFrom, ast.alias),
)
# Not `round` with digits, `sum` of floats, sets, `hash`, `id`, `type` or anything that looks inside objects.
_BUILTINS = frozenset(
    "abs all any bin bool chr dict divmod enumerate filter float hex int isinstance len list map max min oct ord "
    "pow print range repr reversed round sorted str sum tuple zip True False None".split()
)
_METHODS = frozenset(
    # list, dict and tuple
    "append clear copy count extend index insert pop remove reverse sort get items keys setdefault update values "
    # str
    "endswith find isalpha isdigit islower isupper join lower lstrip replace rfind rjust ljust center rstrip split "
    "startswith strip upper zfill "
    "format splitlines title".split()
)
_MATH = frozenset(
    "acos asin atan atan2 ceil comb cos degrees e exp fabs factorial floor fmod gcd hypot inf isqrt lcm log log10 log2 "
    "perm pi pow prod radians sin sqrt tan trunc".split()
)
if sys.version_info >= (3, 12):  # CPython adds floats with compensation since then; Monty does not
    _BUILTINS -= {"sum"}
_CONSTANTS = (str, int, float, bool, type(None))
_ALL_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the syntax tree says: the tier that covers the code, and the top-level modules it imports."""

    tier: Tier
    imports: frozenset[str] = frozenset()


def choose_tier(code: str) -> Tier:
    """The cheapest tier that runs this code as CPython would."""
    return inspect_code(code).tier


def inspect_code(code: str) -> Inspection:
    """Look at one step. Code that does not parse is left to CPython, which says why in its own words."""
    tree = _parse(code)
    if tree is None:
        return Inspection("cpython")
    nodes = list(ast.walk(tree))
    is_covered = len(code) <= MAX_MONTY_CHARS and all(_is_covered(node) for node in nodes)
    return Inspection("monty" if is_covered else "cpython", frozenset(_find_imports(nodes)))


def _parse(code: str) -> ast.Module | None:
    """The tree of code that compiles, without running any of it and without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            compile(tree, "<step>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    return tree


def _find_imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_covered(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, _CONSTANTS) and not _has_surrogate(value)
        case ast.Name(id=name):
            return _is_covered_name(name)
        case ast.Attribute():
            return _is_covered_attribute(node)
        case ast.Import(names=names):
            return all(alias.name == "math" and not alias.asname for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            return module == "math" and not level and all(alias.name in _MATH for alias in names)
        case ast.FunctionDef(name=name, decorator_list=decorators):
            return not decorators and _is_covered_name(name)
        case ast.Call():
            return _is_covered_call(node)
        case ast.Compare(ops=operators, comparators=operands):
            return all(map(_is_covered_comparison, operators, operands))
        case ast.comprehension(is_async=is_async):
            return not is_async
        case ast.FormattedValue(conversion=conversion):
            return conversion == -1
    return isinstance(node, _NODES)


def _is_covered_name(name: str) -> bool:
    return name in _BUILTINS or not (name in _ALL_BUILTINS or name.startswith("__"))


def _is_covered_attribute(node: ast.Attribute) -> bool:
    if not isinstance(node.ctx, ast.Load):
        return False
    is_module = isinstance(node.value, ast.Name) and node.value.id == "math"
    return node.attr in (_MATH if is_module else _METHODS)


def _is_covered_call(node: ast.Call) -> bool:
    if any(keyword.arg is None for keyword in node.keywords):
        return False
    match node.func:
        case ast.Name(id="round"):  # round(2.675, 2) is 2.68 in Monty
            return len(node.args) == 1 and not node.keywords
        case ast.Name(id="print"):
            return all(keyword.arg in ("sep", "end") for keyword in node.keywords)
    return True


def _is_covered_comparison(operator: ast.cmpop, operand: ast.expr) -> bool:
    """Identity is the same in both only for the singletons."""
    if not isinstance(operator, ast.Is | ast.IsNot):
        return True
    return isinstance(operand, ast.Constant) and operand.value in (None, True, False)


def _has_surrogate(value: object) -> bool:
    """Monty prints a lone surrogate; CPython refuses."""
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
