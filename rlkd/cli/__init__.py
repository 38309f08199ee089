"""The `rlkd` command: real policies made smaller, and proof of what was lost.

Each verb parses, calls one library function, prints the result: results on stdout, progress and complaints on stderr.
Exit codes: 0 done, 1 our fault, 2 the caller must fix something, 3 stopped on a signal after saving.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import tyro

from rlkd.cli.exchange import Export, Import
from rlkd.cli.learn import Compare, Distill, Evolve, Train
from rlkd.cli.look import Eval, List, Report, Show, Verify
from rlkd.errors import RlkdError

FULL = (errno.ENOSPC, errno.EDQUOT)

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evolve, tyro.conf.subcommand("evolve")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the process exit code."""
    try:
        command = tyro.cli(Command, prog="rlkd", description=__doc__, args=argv)
        command.run()
        sys.stdout.flush()
    except RlkdError as error:
        print(f"rlkd: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rlkd: interrupted", file=sys.stderr)
        return 3
    except BrokenPipeError:  # the reader of our output has gone, as in `rlkd list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush complains
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"rlkd: the disk is full: {error}; free some space and run the same command again", file=sys.stderr)
        return 2
    return 0


def _thread_failed(otherwise: Callable[[threading.ExceptHookArgs], object], failure: threading.ExceptHookArgs) -> None:
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in FULL):
        otherwise(failure)


# TensorBoard's writer hands its error to the main thread, which says it in one line: no traceback beside that.
threading.excepthook = partial(_thread_failed, threading.excepthook)
