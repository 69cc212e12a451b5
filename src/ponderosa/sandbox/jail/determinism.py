"""Fixed time and seeded randomness, so that running the same code again shows the same output.

Not covered: `os.urandom` and what draws from it (`secrets`, `uuid4`, an unseeded `random.Random()`), addresses in
default representations, and libraries that copied a clock function before it was fixed.
"""

import ctypes
import datetime
import gc
import random
import sys
import time
from collections.abc import Callable
from typing import Any

FIXED_TIME_S = 1_704_067_200  # 2024-01-01T00:00:00Z
SEED = 0


def seed_randomness() -> None:
    """Seed `random`, and numpy's global generator where numpy is loaded."""
    random.seed(SEED)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(SEED)


def fix_clock() -> None:
    """Stop every clock of `time` and `datetime` at FIXED_TIME_S; sleeping takes no time."""
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, lambda: float(FIXED_TIME_S))
        setattr(time, f"{name}_ns", lambda: FIXED_TIME_S * 1_000_000_000)
    time.clock_gettime = lambda clock: float(FIXED_TIME_S)
    time.clock_gettime_ns = lambda clock: FIXED_TIME_S * 1_000_000_000
    time.sleep = lambda seconds: None
    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _at_fixed_time(getattr(time, name)))
    time.strftime = _with_fixed_moment(time.strftime, 1)
    time.asctime = _with_fixed_moment(time.asctime, 0)
    _fix_dates()


def _at_fixed_time(convert: Callable[..., Any]) -> Callable[..., Any]:
    return lambda seconds=None: convert(FIXED_TIME_S if seconds is None else seconds)


def _with_fixed_moment(render: Callable[..., str], position: int) -> Callable[..., str]:
    """`render` takes a struct_time at `position`, and the clock's when it is left out."""

    def rendered(*arguments: Any) -> str:
        if len(arguments) == position:
            arguments = (*arguments, time.gmtime(FIXED_TIME_S))
        return render(*arguments)

    return rendered


def _fix_dates() -> None:
    """`datetime` is written in C and its types are closed; their dictionaries are reached through the collector."""

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return cls.fromtimestamp(FIXED_TIME_S, tz)

    def utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
        return cls.fromtimestamp(FIXED_TIME_S, datetime.UTC).replace(tzinfo=None)

    def today(cls: type[datetime.date]) -> datetime.date:
        return cls.fromtimestamp(FIXED_TIME_S)

    _replace_method(datetime.datetime, "now", now)
    _replace_method(datetime.datetime, "utcnow", utcnow)
    _replace_method(datetime.date, "today", today)


def _replace_method(owner: type, name: str, function: Callable[..., Any]) -> None:
    (namespace,) = gc.get_referents(owner.__dict__)
    namespace[name] = classmethod(function)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))
