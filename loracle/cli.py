"""The command line: each command is a file of `commands/`, which imports what it needs when it runs.

Bad input is one line on stderr and exit code 2. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from loracle import __version__
from loracle.commands.cache import cache
from loracle.commands.data import data
from loracle.commands.demo import demo
from loracle.commands.doctor import doctor
from loracle.commands.export import export
from loracle.commands.importing import import_settings
from loracle.commands.init import init
from loracle.commands.proxy import proxy
from loracle.commands.results.compare import compare
from loracle.commands.results.explain import explain
from loracle.commands.results.report import report
from loracle.commands.results.show import show
from loracle.commands.results.verdict import verdict
from loracle.commands.results.watch import watch
from loracle.commands.suggest import suggest
from loracle.commands.tune import tune
from loracle.commands.worker import worker
from loracle.errors import LoracleError

app = typer.Typer(
    name="loracle",
    help="Finds good LoRA hyperparameters for your model and data, then trains the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    init,
    suggest,
    tune,
    worker,
    demo,
    show,
    verdict,
    explain,
    compare,
    report,
    watch,
    proxy,
    export,
    cache,
    doctor,
    data,
):  # as help lists them
    app.command()(command)
app.command("import")(import_settings)


def main() -> None:
    """Entry point of the `loracle` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            with _json_alone() if "--json" in sys.argv[1:] else contextlib.nullcontext():
                app()
        finally:
            sys.stdout.flush()
    except (LoracleError, OSError, UnicodeEncodeError) as error:
        from loracle.commands.terminal.console import error_line

        sys.stderr.write(error_line(_told(error)))
        if isinstance(error, OSError):  # what could not be written is not tried again
            with contextlib.suppress(OSError):  # a stream that is no file
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)


@contextlib.contextmanager
def _json_alone() -> Iterator[None]:
    """Whatever other people's packages print goes to stderr, so that stdout has one JSON object alone."""
    from loracle.commands.terminal import console

    stdout, own = sys.stdout, None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a stream that is no file
            if stdout.fileno() == 1:
                stdout.flush()
                own = stack.enter_context(os.fdopen(os.dup(1), "w", encoding=stdout.encoding))
                stack.callback(os.dup2, own.fileno(), 1)
                os.dup2(2, 1)
        console.results = own or stdout
        stack.callback(setattr, console, "results", None)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _told(error: Exception) -> Exception | str:
    """What a user is told of an error: where it is, what, and what to do."""
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{error.object!r} cannot be spelt in the encoding of this system ({error.encoding}); set "
            "PYTHONUTF8=1, or LC_ALL to a locale of UTF-8"
        )
    if isinstance(error, OSError):
        why = error.strerror or type(error).__name__
        return f"{error.filename or 'the output'}: {why}; nothing that was finished is lost"
    return error


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
