"""The system call filter: what is not listed fails with EPERM.

Absent on purpose: fork, clone, exec (no processes, no threads), sockets, kill in every form, ptrace and its kin,
io_uring, mounting, namespaces, keys, and every call that changes a file's owner, mode, times or attributes
(Landlock does not control those). Numbers are from Linux `asm/unistd_64.h` and `asm-generic/unistd.h`.
"""

import ctypes
import errno
import platform
import struct

from .kernel import prctl

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

_O_ACCMODE, _O_TRUNC = 0o3, 0o1000
# Not F_SETOWN and F_SETSIG: with them the kernel sends any signal to any process of the same user.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CHECKED = {
    "x86_64": {"ioctl": 16, "fcntl": 72, "openat": 257, "prlimit64": 302},
    "aarch64": {"ioctl": 29, "fcntl": 25, "openat": 56, "prlimit64": 261},
}
# name: (x86_64, aarch64); None where the architecture has no such call
_ALLOWED: dict[str, tuple[int, int | None]] = {
    "write": (1, 64),
    "read": (0, 63),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "mprotect": (10, 226),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "futex": (202, 98),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "ftruncate": (77, 46),
    "fsync": (74, 82),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "close_range": (436, 436),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "times": (100, 153),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _return(value: int) -> bytes:
    return _instruction(_RETURN, value)


def _load_argument(index: int) -> bytes:
    """The low half of an argument; both architectures are little-endian."""
    return _instruction(_LOAD_WORD, _ARGUMENTS_OFFSET + 8 * index)


def _when_number(number: int, body: bytes) -> bytes:
    """Run `body`, which must return, when the call has this number."""
    return _instruction(_JUMP_IF_EQUAL, number, 0, len(body) // 8) + body


def _allow_argument(index: int, values: tuple[int, ...]) -> bytes:
    """Allow the call when an argument has one of `values`, else refuse it."""
    tests = b"".join(_instruction(_JUMP_IF_EQUAL, value, 0, 1) + _return(_ALLOW) for value in values)
    return _load_argument(index) + tests + _return(_ERRNO | errno.EPERM)


def _refuse_truncating_read() -> bytes:
    """`open` for reading with O_TRUNC empties a file that may only be read on kernels before Landlock ABI 3."""
    return b"".join(
        [
            _load_argument(2),
            _instruction(_JUMP_IF_ANY_BIT, _O_TRUNC, 0, 3),
            _instruction(_AND, _O_ACCMODE),
            _instruction(_JUMP_IF_EQUAL, 0, 0, 1),
            _return(_ERRNO | errno.EPERM),
            _return(_ALLOW),
        ]
    )


def is_supported() -> bool:
    """Is there a filter for this machine's architecture?"""
    return platform.machine() in _ARCHITECTURES


def build_filter() -> bytes:
    """The filter as a classic BPF program for this machine. Raises KeyError on other architectures."""
    machine = platform.machine()
    column = list(_ARCHITECTURES).index(machine)
    checked = _CHECKED[machine]
    program = [
        _instruction(_LOAD_WORD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _return(_KILL_PROCESS),
        _instruction(_LOAD_WORD, _NUMBER_OFFSET),
    ]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program.append(_when_number(number, _return(_ALLOW)))
    program += [
        # "not a terminal" is what Python expects of a pipe; EPERM would make it raise
        _when_number(checked["ioctl"], _return(_ERRNO | errno.ENOTTY)),
        _when_number(checked["fcntl"], _allow_argument(1, _FCNTL_COMMANDS)),
        _when_number(checked["prlimit64"], _allow_argument(0, (0,))),
        _when_number(checked["openat"], _refuse_truncating_read()),
        _return(_ERRNO | errno.EPERM),
    ]
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Bind this process, for good. Needs no-new-privileges. Raises OSError."""
    filter_program = _Program(len(program) // 8, program)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filter_program))
