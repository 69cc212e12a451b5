"""The command line. Heavy modules are imported inside commands, so `--help` answers at once.

Exit codes: 0 done; 1 the work failed; 2 the request was wrong; 130 and 143 interrupted, run again to continue.
"""

from ponderosa.cli.entry import app, main

__all__ = ["app", "main"]
