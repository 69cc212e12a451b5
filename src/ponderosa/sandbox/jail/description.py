"""How an exception is shown to a model: the last line of a traceback, and only that."""

MAX_ERROR_CHARS = 500


def describe_exception(error: BaseException) -> str:
    """An exception as `TypeName: message` on one line of at most MAX_ERROR_CHARS."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # the class is model-written, and so is its __str__
        message = ""
    name = type(error).__name__
    return (f"{name}: {message}" if message else name)[:MAX_ERROR_CHARS]
