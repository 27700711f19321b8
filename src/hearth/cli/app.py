"""The command line: names the verbs, loads only the one that runs, turns errors into exit codes."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError, UnusedCliTokensError

from hearth import __version__
from hearth.errors import BadInput, HearthError

app = App(
    name="hearth",
    help="Functions as a service for one machine. First: hearth up, hearth new, hearth deploy.",
    version=__version__,
    version_flags=["--version"],
    help_flags=["--help", "-h"],
)
_VERBS = (  # in the order in which a newcomer needs them
    ("up", "up:up", "Start a node and serve until SIGTERM or Ctrl-C."),
    ("new", "new:new", "Make a folder with a function that works."),
    ("deploy", "deploy:deploy", "Deploy a folder, a source file, a zip or a tar.gz."),
    ("invoke", "invoke:invoke", "Call a function and print its answer."),
    ("list", "list:list_functions", "List the functions of a node."),
    ("describe", "describe:describe", "Show everything known about one function."),
    ("logs", "logs:logs", "Print what a function wrote, call by call."),
    ("invocations", "invocations:invocations", "List the last calls."),
    ("rm", "rm:rm", "Remove a function."),
    ("key", "key:app", "Create, list and remove API keys."),
    ("doctor", "doctor:doctor", "Try each isolation mechanism on this host."),
)
for _place, (_name, _verb, _help) in enumerate(_VERBS):
    # By import string: only the verb that runs is imported.
    app.command(f"hearth.cli.{_verb}", name=_name, help=_help, sort_key=_place)


def main() -> None:
    """Run one verb and exit: 0, or the exit code of the error's class (`hearth.errors`)."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one verb and return its exit code; an error is one line on stderr."""
    try:
        result = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        verb = " ".join(("hearth", *(error.command_chain or ())))
        return _fail(BadInput(f"{_first_line(error)} (see: {verb} --help)"))
    except HearthError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _first_line(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        return f"this is too much: {' '.join(error.unused_tokens or ())}"
    return " ".join(str(error).split()).split(" Available commands")[0].rstrip(".")


def _fail(error: HearthError) -> int:
    limit = f" [{error.limit}]" if error.limit and error.limit not in error.message else ""
    line = " ".join(error.message.split())
    print(f"hearth: {_printable(line)}{limit}", file=sys.stderr)
    if error.stack:
        print(_printable(error.stack.rstrip()), file=sys.stderr)
    return error.exit_code


def _printable(text: str) -> str:
    from hearth.cli.render import printable

    return printable(text)
