"""The command line: one function a command, imports inside the command.

Bad input is one line on stderr and exit code 2. Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loracle import __version__, escape
from loracle.errors import LoracleError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from loracle.config import RunConfig
    from loracle.notices import Notice
    from loracle.proxy import ProxyResult
    from loracle.report import Comparison

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
    int | None, typer.Option(min=0, help="Processes that train at the same time; 0: this very one.")
]
Storage = Annotated[
    str | None, typer.Option(help="Database for many machines: postgresql://... or sqlite:///...")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def main() -> None:
    """Entry point of the `loracle` command."""
    try:
        app()
    except LoracleError as error:
        sys.stderr.write(f"loracle: {error}\n")
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
    train: Annotated[str, typer.Option(help="Training data (JSONL, JSON, CSV or Parquet).")] = "train.jsonl",
) -> None:
    """Write a commented config to start from."""
    from importlib.resources import files

    from loracle.errors import ConfigError

    if path.exists():
        raise ConfigError(f"{path} exists already; name another file or remove it")
    text = files("loracle").joinpath("template.yaml").read_text(encoding="utf-8")
    text = text.replace("{{model}}", json.dumps(model)).replace("{{train}}", json.dumps(train))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; next: loracle doctor {path}, then loracle tune {path}")


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
    from loracle.tune import counted, work

    settings = _settings(config, trials, output, workers=workers, storage=storage)
    with _live(settings.metric) as listen:
        stopped, history = work(settings, listen)
    n = len(counted(history))
    typer.echo(
        f"{stopped}; {n} in all, of which {len(history.succeeded)} succeeded. Next: loracle tune {config}"
    )


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("demo"),
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try everything on a tiny model that comes with Loracle: a few minutes on a CPU, no downloads."""
    import shutil
    from importlib.resources import as_file, files

    from loracle.errors import StudyError

    config = folder / "config.yaml"
    if not config.exists():
        try:
            with as_file(files("loracle").joinpath("demo")) as source:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        except OSError as error:
            raise StudyError(f"{folder} cannot be made: {error}") from None
    sys.stderr.write(f"a normal run: loracle tune {config}\n")
    _tune(_settings(config, trials, None), as_json)


@app.command()
def show(run: RunFolder, as_json: AsJson = False) -> None:
    """List the trials of a run as a table."""
    from rich.console import Console

    from loracle.notices import as_json as as_json_list
    from loracle.notices import read_notices
    from loracle.report import history_rows
    from loracle.run_folder import open_run
    from loracle.study import read_history

    config, space = open_run(run)
    rows = history_rows(space, read_history(config.output, space, config.execution.storage), config.metric)
    notices = read_notices(config.output)
    if as_json:
        content = {"run": str(config.output), "trials": rows, "notices": as_json_list(notices)}
        typer.echo(json.dumps(content))
    else:
        console = Console()
        console.print(_trial_table(rows))
        _print_notices(notices, console)


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
    from rich.console import Console

    from loracle.config import load_config
    from loracle.proxy import check_proxy, parse_fractions

    settings = load_config(config)
    shares = parse_fractions(fractions)
    with _live(settings.metric) as listen:
        found = check_proxy(settings, configs, shares, listen)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
        return
    Console().print(_proxy_table(found))
    typer.echo(f"figure and data: {found.folder}")


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Literal["peft"], typer.Option("--to", help="Format.")] = "peft",
    destination: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("adapter"),
) -> None:
    """Write the winning adapter and its settings for another tool."""
    from loracle.errors import StudyError
    from loracle.export import export_peft
    from loracle.run_folder import open_run

    settings, _ = open_run(run)
    if settings.objective is not None:
        raise StudyError(f"{settings.output}: the adapter is where your trainer saved it; see best.yaml")
    for written in export_peft(settings.output, destination):
        typer.echo(written)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what features are kept between runs, or remove them."""
    from datetime import datetime

    from loracle.features import cache_entries, clear_cache
    from loracle.prepare import cache_folder

    folder = cache_folder()
    freed = clear_cache(folder) if clear else 0
    entries = cache_entries(folder)
    held = sum(entry.size for entry in entries)
    if as_json:
        typer.echo(
            json.dumps({"folder": str(folder), "entries": len(entries), "bytes": held, "freed": freed})
        )
        return
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{used}  {entry.size / 1e6:8.1f} MB  {entry.path.name}")
    typer.echo(
        f"{folder}: {len(entries)} entries, {held / 1e6:.1f} MB"
        + (f", {freed / 1e6:.1f} MB freed" if clear else "")
    )


@app.command()
def doctor(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check device, memory, data, model, space and prompts before anything costs money."""
    from rich.console import Console

    from loracle.config import load_config
    from loracle.doctor import examine
    from loracle.notices import as_json as as_json_list

    settings = load_config(config)
    _quiet()
    checks = []
    console = Console()
    for check in examine(settings):
        checks.append(check)
        if not as_json:
            mark = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}[check.state]
            console.print(f"{mark}  [bold]{check.name:<9}[/] ", end="")
            console.print(check.text, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        found = [{"name": c.name, "state": c.state, "text": c.text} for c in checks]
        noticed = [c.notice for c in checks if c.notice is not None]
        typer.echo(json.dumps({"checks": found, "notices": as_json_list(noticed)}))
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(2)


# -- helpers ----------------------------------------------------------------------------------------


def _settings(path: Path, trials: int | None, output: Path | None, **execution: Any) -> RunConfig:
    """The config in a file, with what the command line changes."""
    from loracle.config import load_config, resolve_storage

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
    return config.model_copy(update=changes)


def _tune(config: RunConfig, as_json: bool) -> None:
    from rich.console import Console

    from loracle.notices import as_json as as_json_list
    from loracle.report import comparison_json, paired, verdict
    from loracle.tune import tune as run

    with _live(config.metric) as listen:
        result = run(config, listen)
    metric = config.metric
    if as_json:
        typer.echo(
            json.dumps(
                comparison_json(result.comparison)
                | {
                    "run": str(result.folder),
                    "stopped": result.stopped,
                    "notices": as_json_list(result.notices),
                }
            )
        )
        return
    console = Console()
    console.print(_comparison_table(result.comparison, metric))
    own = config.objective is not None
    for line in (verdict(result.comparison, metric), paired(result.comparison, metric)):
        if line:
            console.print(line, highlight=False)
    _print_notices(result.notices, console)
    best = result.folder / ("best.yaml" if own else "best")
    console.print(f"{'settings' if own else 'adapter'}: {best}", highlight=False, soft_wrap=True)
    console.print(f"report:  {result.folder / 'report.md'}", highlight=False, soft_wrap=True)


def _print_notices(notices: Sequence[Notice], console: Console) -> None:
    """One line each, as the display showed them before the first trial."""
    for notice in notices:
        console.print("[yellow]note[/]", end=" ")
        console.print(
            escape.printable(f"{notice.about}: {notice.text}"),
            markup=False,
            highlight=False,
            soft_wrap=True,
            emoji=False,
        )


@contextmanager
def _live(metric: str) -> Iterator[Any]:
    """A listener that shows progress on stderr: a bar on a terminal, plain lines elsewhere."""
    from loracle.display import Display

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


def _trial_table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in rows[0] if rows else ["trial"]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table


def _comparison_table(comparison: Comparison, metric: str) -> Table:
    from rich.table import Table

    from loracle.report import comparison_rows

    table = Table(box=None, header_style="bold")
    names, *rows = comparison_rows(comparison, metric)
    for name in names:
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _proxy_table(found: ProxyResult) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("data", "examples", "seconds", "coefficient", "all configs", "better half", "published"):
        table.add_column(name, justify="right")
    for part in found.fractions:
        by_kind = {
            (c.kind, c.among): f"{c.estimate:.2f} ({c.low:.2f} to {c.high:.2f})" for c in part.correlations
        }
        for i, kind in enumerate(("pearson", "spearman", "kendall")):
            first = (f"{100 * part.fraction:g} %", f"{part.n_examples:,}", f"{part.seconds:.1f}")
            table.add_row(
                *(first if i == 0 else ("", "", "")),
                kind,
                by_kind[kind, "all"],
                by_kind[kind, "better half"],
                part.published if kind == "pearson" else "",
            )
    return table
