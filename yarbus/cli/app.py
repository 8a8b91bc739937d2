"""The verbs put together, and what happens when one of them fails."""

import os
import sys
from typing import Any

import typer
from rich.console import Console

from yarbus.cli.audit import audit
from yarbus.cli.compare import compare
from yarbus.cli.conflict import conflict
from yarbus.cli.evaluate import evaluate
from yarbus.cli.export import export
from yarbus.cli.interpolate import interpolate
from yarbus.cli.list import list_entries
from yarbus.cli.overhead import overhead
from yarbus.cli.plan import plan
from yarbus.cli.probe import probe
from yarbus.cli.quickstart import quickstart
from yarbus.cli.report import report
from yarbus.cli.train import train
from yarbus.core.errors import CheckpointError, UserError

VERBS = {
    "quickstart": quickstart,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "conflict": conflict,
    "overhead": overhead,
    "audit": audit,
    "interpolate": interpolate,
    "probe": probe,
    "export": export,
    "report": report,
    "list": list_entries,
}
INTERRUPTED = 130
UsageError: Any = typer.BadParameter.__base__
"""Typer carries its own copy of click, whose errors it does not export by name."""


def application() -> typer.Typer:
    """The command line as a typer application."""
    app = typer.Typer(
        name="yarbus",
        help="Let the question reach the eyes of a vision-language model, and find out whether it should.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def options(
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
        version: bool = typer.Option(False, "--version", help="Show the version and leave.", is_eager=True),
    ) -> None:
        if version:
            from importlib.metadata import version as version_of

            print(version_of("yarbus"))
            raise typer.Exit

    for name, verb in VERBS.items():
        app.command(name)(verb)  # type: ignore[type-var]
    return app


def _usage_error(error: Any) -> str:
    hint = error.ctx.command_path if error.ctx else "yarbus"
    option = f" {' / '.join(error.param.opts)}" if getattr(error, "param", None) is not None else ""
    return f"error: wrong usage{option} - {error.message.rstrip('.')}; fix: see '{hint} --help'"


def _refused(error: OSError) -> CheckpointError:
    """What the operating system refused, wherever in the work: a path that cannot be, no right, no space."""
    why = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
    fix = "check the path and its rights, and that there is space"
    return CheckpointError("cannot read or write", where=error.filename, why=why, fix=fix)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code; errors are one message on stderr."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)
    try:
        result: Any = application()(arguments, standalone_mode=False)
    except UserError as error:
        if debug:
            raise
        err.print(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone (| head): not an error, and Python must not complain about it while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        err.print(f"error: {_refused(error)}")
        return CheckpointError.exit_code
    except UsageError as error:
        err.print(_usage_error(error) if arguments else "", end="\n" if arguments else "")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:
        err.print("interrupted; the same command goes on from the last checkpoint, and keeps what is finished")
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the ``yarbus`` command."""
    sys.exit(run(sys.argv[1:]))
