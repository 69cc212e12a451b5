"""A user's own object, named `package.module:name`, or `file.py:name` beside the recipe.

The file is the user's own code and runs with the user's rights, unlike anything a model writes. Its source is
hashed, so a stage that used it is done again when it changes; modules that it imports are not part of the hash.
"""

import importlib.util
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ponderosa.errors import RequestError
from ponderosa.identity import content_hash, hash_file


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """What a reference names, and the hash of the source it came from."""

    value: Any
    source_hash: str


def load_object(reference: str, base: Path) -> LoadedObject:
    """The object that `module:name` or `file.py:name` refers to; a file is looked for in `base`.

    Raises RequestError if the module, the file or the name does not exist.
    """
    where, colon, name = reference.rpartition(":")
    if not (colon and where and name):
        raise RequestError(f"{reference!r}: write package.module:name or file.py:name")
    module = _load_file(base / where) if where.endswith(".py") else _load_module(where)
    if not hasattr(module, name):
        raise RequestError(f"{where} defines no {name!r}")
    if not module.__file__:
        raise RequestError(f"{where} has no source file")
    return LoadedObject(getattr(module, name), hash_file(Path(module.__file__)))


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(f"no such file: {path}")
    name = f"ponderosa_user_{path.stem}_{content_hash(path.read_bytes())}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise RequestError(f"no module named {error.name!r} (from {name!r}); is it installed?") from None
