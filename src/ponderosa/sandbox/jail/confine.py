"""A process gives up its rights, for good, before it runs code somebody else wrote.

Each layer stands alone: Landlock for paths, the call filter for everything without a path, resource limits for
quantities, and no capabilities, so that root is confined like anyone else.
"""

import ctypes
import math
import os
import resource
import signal
import site
import sys
from dataclasses import dataclass
from typing import Any

from . import landlock, seccomp
from .kernel import prctl

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SYSTEM_FILES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
)
MAX_OPEN_FILES = 32
MAX_FILE_BYTES = 8 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Confinement:
    """What every child of one server shares: built once, inherited by fork."""

    scratch: str
    ruleset: int
    filter_program: bytes


def build_confinement(scratch: str) -> Confinement:
    """Raises OSError where the kernel has no Landlock, KeyError on an architecture without a call filter."""
    readable = {*_SYSTEM_FILES, *site.getsitepackages()}
    readable |= {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")}
    rules = [(path, landlock.READ) for path in sorted(readable)]
    rules.append(("/dev/null", landlock.READ_FILE | landlock.WRITE_FILE))
    rules.append((scratch, landlock.SCRATCH))
    return Confinement(scratch, landlock.build_ruleset(rules), seccomp.build_filter())


def read_address_space() -> int:
    """Bytes of address space this process holds."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def confine(confinement: Confinement, server_pid: int, address_space_bytes: int, cpu_s: float) -> None:
    """Confine this process.

    Raises OSError if any layer cannot be put in place; then nothing may be run.
    """
    os.setsid()
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:  # the server died before the line above
        os._exit(1)
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.chdir(confinement.scratch)
    landlock.restrict_self(confinement.ruleset)
    os.close(confinement.ruleset)
    _set_limits(address_space_bytes, cpu_s)
    _drop_capabilities()
    seccomp.install_filter(confinement.filter_program)


def _set_limits(address_space: int, cpu_s: float) -> None:
    cpu = math.ceil(cpu_s)
    limits: list[tuple[int, int]] = [
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    for kind, value in limits:
        resource.setrlimit(kind, (value, value))


def _drop_capabilities() -> None:
    """Without them root cannot raise its limits again."""
    header: Any = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none: Any = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"capset: {os.strerror(errno)}")
