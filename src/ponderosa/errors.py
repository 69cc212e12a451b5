"""Every error Ponderosa raises on purpose.

    PonderosaError
    ├── RequestError (also ValueError)   the request was wrong: exit code 2
    │   ├── ConfigError                  a recipe, option or prompt format
    │   ├── DataError                    a problem file or a model directory
    │   └── RunLocked                    another process is working in this run folder
    └── WorkError (also RuntimeError)    the work failed: exit code 1
        ├── SandboxUnavailable           no tier can run code on this machine
        ├── WorkerLost                   a worker process died twice on our account
        ├── InvalidReward                a reward raised, or gave no finite number
        └── NonFiniteLoss                training produced NaN or infinity

A `RequestError` says what was seen, what is allowed, and the remedy. What a model writes never raises:
it becomes an outcome or a verdict.
"""


class PonderosaError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class RequestError(PonderosaError, ValueError):
    """What the user asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(RequestError):
    """A recipe, an option or a prompt format is wrong."""


class DataError(RequestError):
    """A problem file or a model directory is wrong."""


class RunLocked(RequestError):
    """Another live process holds this run folder."""


class WorkError(PonderosaError, RuntimeError):
    """The work itself failed."""


class SandboxUnavailable(WorkError):
    """No sandbox tier can run the code on this machine."""


class WorkerLost(WorkError):
    """A worker process was lost, and lost again on a fresh one."""


class InvalidReward(WorkError):
    """A reward raised, or gave something that is no finite number; the message shows the attempt."""


class NonFiniteLoss(WorkError):
    """The training loss became NaN or infinite."""
