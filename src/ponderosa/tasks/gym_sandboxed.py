"""The part of the reasoning-gym adapter that runs inside the sandbox, as source text and on its own.

It imports nothing of Ponderosa, which a confined process cannot read. Metadata crosses the border as JSON in
which tuples, sets, fractions and mappings with other keys than strings are marked, because scorers compare them.
"""

import contextlib
import io
import json
from fractions import Fraction
from typing import Any

MARK = "__type__"


def encode(value: Any) -> Any:
    """A JSON value from which `decode` makes an equal value of the same types."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple | set | frozenset):
        items = value if isinstance(value, tuple) else sorted(value, key=repr)
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {MARK: kind, "items": [encode(item) for item in items]}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {MARK: "dict", "items": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, Fraction):
        return {MARK: "fraction", "items": str(value)}
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return encode(value.tolist())
    return str(value)


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    items: Any = value.get("items")
    match value.get(MARK):
        case "tuple":
            return tuple(decode(item) for item in items)
        case "set":
            return {decode(item) for item in items}
        case "dict":
            return {decode(key): decode(item) for key, item in items}
        case "fraction":
            return Fraction(items)
    return {key: decode(item) for key, item in value.items()}


_datasets: dict[str, Any] = {}


def build_dataset(task: str, config: dict[str, Any], seed: int = 0) -> Any:
    """A dataset of one item; built once, since several read whole word lists."""
    import reasoning_gym

    key = json.dumps([task, config, seed])
    if key not in _datasets:
        _datasets[key] = reasoning_gym.create_dataset(task, size=1, seed=seed, **config)
    return _datasets[key]


def generate(task: str, config: dict[str, Any], seeds: list[int], is_seeded_by_dataset: bool) -> list[Any]:
    """The items of these seeds: question, answer, metadata."""
    if is_seeded_by_dataset:
        items = [build_dataset(task, config, seed)[0] for seed in seeds]
    else:
        dataset = build_dataset(task, config)
        items = [dataset[seed] for seed in seeds]
    return [[item["question"], item["answer"], encode(item["metadata"])] for item in items]


def score(task: str, config: dict[str, Any], item: list[Any], candidate: str) -> float:
    """The scorer's own number; 0.0 where the scorer raises, which is how several of them refuse an answer."""
    question, answer, metadata = item
    entry = {"question": question, "answer": answer, "metadata": decode(metadata)}
    dataset = build_dataset(task, config)
    try:
        return float(dataset.score_answer(candidate, entry))
    except Exception:
        return 0.0


def answer_request(request: str) -> None:
    """Print the reply to a JSON request {"call": name, ...arguments}; nothing else reaches standard output."""
    arguments = json.loads(request)
    with contextlib.redirect_stdout(io.StringIO()):
        is_score = arguments.pop("call") == "score"
        reply = score(**arguments) if is_score else generate(**arguments)
    print(json.dumps(reply))
