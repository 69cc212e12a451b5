"""YAML in, checked pydantic models out. An unknown key is an error that names the nearest valid one."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ponderosa.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration; it lives beside the code it configures.

    A field's documentation is its `description` or the docstring below it; docs/recipes.md is made of these.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_nested_defaults(cls, values: Any) -> Any:
        """A block that is given in part keeps its field's defaults for the rest, not those of its class."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: _complete(defaults[name], value) if isinstance(defaults.get(name), Config) else value
            for name, value in values.items()
        }


def _complete(default: "Config", value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    values: dict[str, Any] = {name: getattr(default, name) for name in default.model_fields_set}
    for name, given in value.items():
        known = getattr(default, name, None)
        values[name] = _complete(known, given) if isinstance(known, Config) else given
    return values


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}
"""What a value must be, by what pydantic calls it."""

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def parse_config(model: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate `values`; a ConfigError lists every problem with what was seen and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def load_yaml(path: Path) -> Any:
    """Parsed YAML (safe types only), anchors written out, so that a value that is changed in one place is
    changed there alone. Raises ConfigError with the line if it does not parse."""
    try:
        return _copy(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}{suggest_path(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a readable text file: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {error}") from None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def set_path(values: dict[str, Any], assignment: str, *, option: str = "--set") -> None:
    """Apply one `--set a.b=value` in place; the value is read as YAML. option: what errors call it."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"{option} {assignment!r}: write path=value, for example {option} seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{option} {assignment!r}: the value is not valid YAML") from None
    set_value(values, path, value, where=f"{option} {assignment!r}")


def set_value(values: dict[str, Any], path: str, value: Any, *, where: str) -> None:
    """Put a value at `a.b` in place.

    A list of named mappings (a recipe's stages) is addressed by name: `stages.sft.epochs`; any other list by
    place, from 0: `stages.problems.sources.0.count`. where: what an error calls the assignment.
    """
    node: Any = values
    *parents, last = path.split(".")
    for key in parents:
        node = _descend(node, key, where)
    if not isinstance(node, dict):
        raise ConfigError(f"{where}: {'.'.join(parents)} holds no keys")
    node[last] = value


def _descend(node: Any, key: str, where: str) -> Any:
    if isinstance(node, list):
        named = {item["name"]: item for item in node if isinstance(item, dict) and "name" in item}
        if key in named:
            return named[key]
        if not named and key.isdigit() and int(key) < len(node):
            return node[int(key)]
        if not named:
            raise ConfigError(f"{where}: {key!r} is no place in a list of {len(node)}")
        raise ConfigError(f"{where}: nothing is named {key!r}{suggest(key, named)}")
    if isinstance(node, dict):
        return node.setdefault(key, {})
    raise ConfigError(f"{where}: {key!r} is inside a plain value")


def suggest(seen: str, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    """The tail of an error message: the nearest allowed name, and all of them."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(seen, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} (allowed: {', '.join(names)})"


def suggest_path(path: Path) -> str:
    """The tail of an error message about a path that leads nowhere: what there is where it goes wrong."""
    missing, rest = path, Path()
    while not missing.parent.is_dir() and missing.parent != missing:
        missing, rest = missing.parent, missing.name / rest
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    if missing.name in names:
        return f"; {missing} is no folder"
    for name in difflib.get_close_matches(missing.name, names, n=1):
        near = missing.parent / name
        return f"; did you mean {str(near / rest if (near / rest).exists() else near)!r}?"
    nearest = difflib.get_close_matches(missing.name, names, cutoff=0)
    return f"; nearest in {missing.parent.resolve()}: {', '.join(nearest) or 'nothing, it is empty'}"


def _explain(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "value_error":
        return f"{path!r}: {problem['ctx']['error']}" if location else str(problem["ctx"]["error"])
    owner = _model_at(model, location[:-1])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}" + (suggest(location[-1], owner.model_fields) if owner else "")
    field = owner.model_fields.get(location[-1]) if owner and location else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    if problem["type"] == "missing":
        return f"{path!r}{meaning} is required"
    kind, _, fault = problem["type"].partition("_")
    is_kind = kind in KINDS and fault in {"type", "parsing", "from_float", "attributes_type"}
    wanted = KINDS[kind] if is_kind else problem["msg"].removeprefix("Input should be ")
    return f"{path!r}{meaning} must be {wanted}, seen {problem['input']!r}"


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The configuration class a path leads to, looking through optionals, lists and mappings."""
    for key in location:
        if key.isdigit() or key not in model.model_fields:
            continue
        found = _first_model(model.model_fields[key].annotation)
        if found is None:
            return None
        model = found
    return model


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _first_model(argument)) is not None:
            return found
    return None
