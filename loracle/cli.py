"""The command line: one function a command, imports inside the command.

Bad input is one line on stderr and exit code 2. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import io
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loracle import __version__
from loracle.errors import LoracleError

if TYPE_CHECKING:
    from loracle.config.settings import RunConfig

app = typer.Typer(
    name="loracle",
    help="Finds good LoRA hyperparameters for your model and data, then trains the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path, typer.Argument(help="YAML file, as written by `loracle init`.", metavar="CONFIG")
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, or the config file of a run.", metavar="RUN")]
Workers = Annotated[
    int | None, typer.Option(min=0, max=1000, help="Processes that train at the same time; 0: this very one.")
]
Storage = Annotated[
    str | None, typer.Option(help="Database for many machines: postgresql://... or sqlite:///...")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def main() -> None:
    """Entry point of the `loracle` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except LoracleError as error:
        from loracle.commands.console import error_line

        sys.stderr.write(error_line(error))
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("loracle.yaml"),
    model: Annotated[str, typer.Option(help="Hub id or folder of the base model.")] = "Qwen/Qwen3-0.6B",
    train: Annotated[
        str | None,
        typer.Option(help="Training data (JSONL, JSON, CSV or Parquet); else train.jsonl beside the config."),
    ] = None,
) -> None:
    """Write a commented config to start from."""
    from loracle.commands.console import console, say
    from loracle.config.new_file import write_config

    for name in write_config(path, model, train):
        say(console(), f"not there yet: {name}")
    named = shlex.quote(str(path))
    say(console(), f"wrote {path}; next: loracle doctor {named}, then loracle tune {named}")


@app.command()
def tune(
    config: ConfigFile,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials, earlier ones included.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    workers: Workers = None,
    executor: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Where workers run: this machine, or a Ray cluster."),
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Search, then train the winner. The same command continues a run that was interrupted."""
    settings = _settings(config, trials, output, workers=workers, executor=executor, storage=storage)
    _tune(settings, as_json)


@app.command()
def worker(
    config: ConfigFile,
    storage: Storage = None,
    workers: Workers = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials, of all machines together.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run folder; its name is the run's in the database.")
    ] = None,
) -> None:
    """Search together with other machines on one database; then `loracle tune` trains the winner."""
    from loracle.commands.console import console, say
    from loracle.run.tune import counted, work

    settings = _settings(config, trials, output, workers=workers, storage=storage)
    with _live(settings.metric) as listen:
        stopped, history = work(settings, listen)
    n = len(counted(history))
    succeeded = f"{n} in all, of which {len(history.succeeded)} succeeded"
    say(console(), f"{stopped}; {succeeded}. Next: loracle tune {shlex.quote(str(config))}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("demo"),
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try everything on a tiny model that comes with Loracle: a few minutes on a CPU, no downloads."""
    from loracle.commands.console import console, say
    from loracle.commands.demo_folder import make_demo

    config = make_demo(folder)
    say(console(errors=True), f"a normal run: loracle tune {shlex.quote(str(config))}")
    _tune(_settings(config, trials, None), as_json)


@app.command()
def show(run: RunFolder, as_json: AsJson = False) -> None:
    """List the trials of a run as a table."""
    from loracle.commands.console import console, say_json, say_notices, say_table
    from loracle.records.notices import as_json as notices_as_json
    from loracle.records.notices import read_notices
    from loracle.report.tables import history_json, history_table
    from loracle.run.folder import open_run
    from loracle.run.storage.opening import read_history

    config, space = open_run(run)
    history = read_history(config.output, space, config.execution.storage)
    notices = read_notices(config.output)
    if as_json:
        content = {"run": str(config.output), "metric": config.metric}
        trials = history_json(space, history, config.metric)
        say_json(content | {"trials": trials, "notices": notices_as_json(notices)})
        return
    say_table(console(), history_table(space, history, config.metric))
    say_notices(console(), notices)


@app.command()
def proxy(
    config: ConfigFile,
    configs: Annotated[int, typer.Option("-k", "--configs", min=4, help="Configs to train.")] = 12,
    fractions: Annotated[
        str, typer.Option(help="Shares of the training data, besides all of it.")
    ] = "0.01,0.05,0.1,0.25",
    as_json: AsJson = False,
) -> None:
    """Measure how well training subsets rank configs, by training some on subsets and on everything."""
    from loracle.commands.console import console, say, say_json, say_table
    from loracle.config.settings import load_config
    from loracle.report.tables import proxy_table
    from loracle.run.proxy import check_proxy, parse_fractions

    settings = load_config(config)
    shares = parse_fractions(fractions)
    with _live(settings.metric) as listen:
        found = check_proxy(settings, configs, shares, listen)
    if as_json:
        say_json(found.as_json())
        return
    say_table(console(), proxy_table(found))
    say(console(), f"figure and data: {found.folder}")


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Literal["peft"], typer.Option("--to", help="Format.")] = "peft",
    destination: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("adapter"),
) -> None:
    """Write the winning adapter and its settings for another tool."""
    from loracle.commands.console import console, say
    from loracle.errors import StudyError
    from loracle.export.peft import export_peft
    from loracle.run.folder import open_run

    settings, _ = open_run(run)
    if settings.objective is not None:
        raise StudyError(f"{settings.output}: the adapter is where your trainer saved it; see best.yaml")
    for written in export_peft(settings.output, destination):
        say(console(), str(written))


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what features are kept between runs, or remove them."""
    from datetime import datetime

    from loracle.commands.console import console, say, say_json
    from loracle.language.feature_cache import cache_entries, clear_cache
    from loracle.run.prepare import cache_folder

    folder = cache_folder()
    freed = clear_cache(folder) if clear else 0
    entries = cache_entries(folder)
    held = sum(entry.size for entry in entries)
    if as_json:
        say_json({"folder": str(folder), "entries": len(entries), "bytes": held, "freed": freed})
        return
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        say(console(), f"{used}  {entry.size / 1e6:8.1f} MB  {entry.path.name}")
    cleared = f", {freed / 1e6:.1f} MB freed" if clear else ""
    say(console(), f"{folder}: {len(entries)} entries, {held / 1e6:.1f} MB{cleared}")


@app.command()
def doctor(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check device, memory, data, model, space and prompts before anything costs money."""
    from loracle.commands.console import console, say_json, say_parts
    from loracle.commands.doctor import examine
    from loracle.config.settings import load_config
    from loracle.records.notices import as_json as notices_as_json

    settings = load_config(config)
    _quiet()
    checks = []
    styles = {"ok": "green", "note": "yellow", "bad": "red"}
    for check in examine(settings):
        checks.append(check)
        if not as_json:
            state = (f"{check.state:<4}  ", styles[check.state])
            say_parts(console(), state, (f"{check.name:<9} ", "bold"), (check.text, ""), indent=16)
    if as_json:
        found = [{"name": c.name, "state": c.state, "text": c.text} for c in checks]
        notices = notices_as_json(c.notice for c in checks if c.notice is not None)
        say_json({"checks": found, "notices": notices})
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(2)


# -- helpers ----------------------------------------------------------------------------------------


def _settings(path: Path, trials: int | None, output: Path | None, **execution: Any) -> RunConfig:
    """The config in a file, with what the command line changes."""
    from loracle.config.settings import load_config, resolve_storage

    config = load_config(path)
    changes: dict[str, Any] = {}
    given = {name: value for name, value in execution.items() if value is not None}
    if "storage" in given:
        given["storage"] = resolve_storage(given["storage"], Path.cwd())
    if given:
        changes["execution"] = config.execution.model_copy(update=given)
    if trials is not None:
        changes["search"] = config.search.model_copy(update={"trials": trials})
    if output is not None:
        changes["output"] = output.resolve()
    config = config.model_copy(update=changes)
    _require_text(config)
    return config


def _require_text(config: RunConfig) -> None:
    """Refuses paths that the run's own config.yaml could not hold. Raises ConfigError."""
    from loracle.errors import ConfigError

    data = config.data
    for key, path in (("output", config.output), ("data.train", data.train), ("model", config.model)):
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(path)):
            raise ConfigError(
                f"{key}: {str(path)!r} holds characters that no file of settings can hold; rename the folder"
            )


def _tune(config: RunConfig, as_json: bool) -> None:
    from loracle.commands.console import console, say, say_json, say_notices, say_parts, say_table
    from loracle.records.notices import as_json as notices_as_json
    from loracle.report.tables import comparison_json, comparison_rows
    from loracle.report.verdict import verdict_lines
    from loracle.run.tune import tune as run

    with _live(config.metric) as listen:
        result = run(config, listen)
    metric, found = config.metric, result.comparison
    said = verdict_lines(found, metric, result.history)
    if as_json:
        content = {"run": str(result.folder), "stopped": result.stopped, "verdict": " ".join(said)}
        say_json(comparison_json(found, metric) | content | {"notices": notices_as_json(result.notices)})
        return
    out = console()
    say_table(out, comparison_rows(found, metric), left=[0])
    for line in said:
        say_parts(out, (line, ""))
    say_notices(out, result.notices)
    if result.best is not None:
        say(out, f"{'adapter' if result.best.is_dir() else 'settings'}: {result.best}")
    say(out, f"report:  {result.folder / 'report.md'}")


@contextmanager
def _live(metric: str) -> Iterator[Any]:
    """A listener that shows progress on stderr: a bar on a terminal, plain lines elsewhere."""
    from loracle.commands.display import Display

    _quiet()
    try:
        with Display(metric) as display:
            yield display.show
    except KeyboardInterrupt:
        sys.stderr.write("loracle: stopped; the same command continues where it was\n")
        raise typer.Exit(130) from None


def _quiet() -> None:
    """Silences libraries that report every step of their own; the display says what matters."""
    import logging

    import optuna
    import transformers

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
