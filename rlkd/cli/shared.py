"""What several verbs need: overrides, tables on the terminal, the command itself."""

import shlex
import shutil
import sys
from collections.abc import Callable
from typing import Annotated

from tyro.conf import UseAppendAction, arg

Set = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]


def print_table(table: Callable[..., object], content: object) -> None:
    """Print what `table` makes of `content`, as wide as the terminal."""
    from rich.console import Console

    width = shutil.get_terminal_size((160, 24)).columns  # files and pipes have no width: nothing is cut off there
    Console(width=width).print(table(content, width=width))


def slug(name: str) -> str:
    """A recipe's name as part of a folder's name."""
    return name.removesuffix(".toml").replace("/", "-")


def command() -> str:
    """The command line that runs, for records."""
    return shlex.join(["rlkd", *sys.argv[1:]])
