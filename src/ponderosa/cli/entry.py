"""The program: its commands, and what becomes of a log line, a signal or an error."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from ponderosa.cli.choices import doctor, list_things
from ponderosa.cli.files import grade, sandbox
from ponderosa.cli.models import evaluate, solve
from ponderosa.cli.runs import report, run
from ponderosa.errors import PonderosaError
from ponderosa.report.escape import show_controls

log = logging.getLogger("ponderosa")

INTERRUPTED = 130
"""What the command line library returns, and shells report, for a program ended by Ctrl-C."""

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "solve": solve,
    "evaluate": evaluate,
    "grade": grade,
    "sandbox": sandbox,
    "report": report,
    "list": list_things,
    "doctor": doctor,
}

app = typer.Typer(
    name="ponderosa",
    help="Grow small language models that reason: verified data, staged training, evidence you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, command in COMMANDS.items():
    app.command(name)(command)


class StderrHandler(logging.Handler):
    """Log lines made safe to look at, on whatever standard error is now: bars move it aside while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(show_controls(self.format(record)), file=sys.stderr)


def main() -> NoReturn:
    """Entry point: runs a command and turns errors into exit codes."""
    signal.signal(signal.SIGTERM, _exit_on_term)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", handlers=[StderrHandler()])
    log.setLevel(logging.NOTSET)
    try:
        code = app(prog_name="ponderosa", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except PonderosaError as error:
        log.debug("where the error arose", exc_info=True)
        print(f"error: {show_controls(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        log.debug("where the error arose", exc_info=True)
        print(f"error: {show_controls(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if _is_usage_error(error):
            print(f"error: {show_controls(_explain_usage(error))}", file=sys.stderr)
            sys.exit(2)
        raise
    if code == INTERRUPTED:
        print("interrupted; the same command goes on from what was saved last", file=sys.stderr)
    sys.exit(code or 0)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"ponderosa {version('ponderosa')}")
        raise typer.Exit


@app.callback()
def _accept_common_options(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and end.", callback=_show_version),
    ] = False,
) -> None: ...


def _exit_on_term(*_: object) -> NoReturn:
    print("terminated; the same command goes on from what was saved last", file=sys.stderr)
    sys.exit(143)


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _explain_usage(error: Any) -> str:
    """What the command line library found wrong, what it takes instead, and where the rest is said."""
    said = error.format_message()
    sentences = [said if said.endswith((".", "?")) else f"{said}."]
    if meaning := getattr(getattr(error, "param", None), "help", None):
        sentences.append(f"It takes: {meaning}")
    context = getattr(error, "ctx", None)
    if commands := getattr(getattr(context, "command", None), "commands", None):
        sentences.append(f"Commands: {', '.join(commands)}.")
    if context is not None:
        sentences.append(f"See `{context.command_path} --help`.")
    return " ".join(sentences)
