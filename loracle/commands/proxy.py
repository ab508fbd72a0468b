"""`loracle proxy`."""

from __future__ import annotations

from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson, ConfigFile


def proxy(
    config: ConfigFile,
    configs: Annotated[int, typer.Option("-k", "--configs", min=4, help="Configs to train.")] = 12,
    fractions: Annotated[
        str, typer.Option(help="Shares of the training data, besides that of a trial and all of it.")
    ] = "0.01,0.05,0.1,0.25",
    as_json: AsJson = False,
) -> None:
    """Measure how well training subsets, that of a trial among them, rank configs like all data do."""
    from loracle.commands.terminal.console import console, say, say_json, say_table
    from loracle.commands.terminal.display import live
    from loracle.config.loading import load_config
    from loracle.report.proxy import proxy_table
    from loracle.run.proxy import check_proxy, parse_fractions

    settings = load_config(config)
    shares = parse_fractions(fractions)
    with live(settings, models=True) as listen:
        found = check_proxy(settings, configs, shares, listen)
    if as_json:
        say_json(found.as_json())
        return
    say_table(console(), proxy_table(found))
    say(console(), f"figure and data: {found.folder}")
