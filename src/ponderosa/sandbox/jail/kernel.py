"""Raw system calls through libc, for what the standard library does not wrap."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """Call the kernel. Raises OSError with the kernel's errno."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    return _checked(result, f"system call {number}")


def prctl(option: int, *arguments: int) -> None:
    """Set an attribute of this process. Raises OSError."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(int(_libc.prctl(option, *padded)), f"prctl {option}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result
