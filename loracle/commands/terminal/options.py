"""Arguments and options that several commands share, and the settings that they change."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from loracle.config.settings import RunConfig

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


def changed_settings(path: Path, trials: int | None, output: Path | None, **execution: Any) -> RunConfig:
    """The config in a file, with what the command line changes.

    Args:
        path: of the file.
        trials: total number; None: as the file says, as for all that follows.
        output: run folder, seen from the current one.
        execution: settings of that section.

    Raises:
        ConfigError: see `load_config`; or a path that the run's own config.yaml could not hold.
    """
    from loracle.commands.terminal.console import console, say
    from loracle.config.loading import read_config, resolve_storage

    config, elsewhere = read_config(path)
    if elsewhere is not None and output is None:
        here = config.output
        say(console(errors=True), f"{path} is the config of a run that was at {elsewhere}; this is {here}")
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
    from loracle.config.data.sources import described
    from loracle.errors import ConfigError

    train = described(config.data.train)
    for key, path in (("output", config.output), ("data.train", train), ("model", config.model)):
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(path)):
            raise ConfigError(
                f"{key}: {str(path)!r} holds characters that no file of settings can hold; rename the folder"
            )
