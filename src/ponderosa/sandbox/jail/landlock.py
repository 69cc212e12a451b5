"""Landlock: the kernel refuses every path except the ones named here, for root too.

Source: Linux Documentation/userspace-api/landlock.rst. What it does not cover (metadata changes, truncation on
old kernels, system calls without a path) is left to the system call filter in `seccomp`.
"""

import ctypes
import os
from collections.abc import Iterable

from .kernel import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REGULAR, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
READ = READ_FILE | READ_DIR
# A scratch folder stays flat, without links, devices or sockets, so that clearing it is simple and bounded.
SCRATCH = READ | WRITE_FILE | REMOVE_FILE | MAKE_REGULAR | TRUNCATE
_FILE_RIGHTS = WRITE_FILE | READ_FILE | TRUNCATE

_FILESYSTEM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> number of rights it knows; 16 from ABI 5 on
_NETWORK_RIGHTS = 0b11  # bind and connect TCP, from ABI 4
_SCOPES = 0b11  # abstract sockets and signals to processes outside, from ABI 6


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def read_abi() -> int:
    """The kernel's Landlock version. Raises OSError where the kernel has none or it is switched off."""
    return syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))


def build_ruleset(rules: Iterable[tuple[str, int]]) -> int:
    """A ruleset that denies everything it can deny except `rules` (path, rights); its file descriptor.

    Paths that do not exist are skipped.
    """
    abi = read_abi()
    rights = (1 << _FILESYSTEM_RIGHTS.get(abi, 16)) - 1
    attributes = _RulesetAttributes(rights, _NETWORK_RIGHTS if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path, allowed in rules:
        if os.path.exists(path):
            _allow(ruleset, path, allowed & rights)
    return ruleset


def _allow(ruleset: int, path: str, allowed: int) -> None:
    if not os.path.isdir(path):
        allowed &= _FILE_RIGHTS
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(allowed, parent)
        syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(parent)


def restrict_self(ruleset: int) -> None:
    """Bind this process, for good. Needs no-new-privileges. Raises OSError."""
    syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
