"""Trackers that a config names, beside what the terminal shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loracle.commands.terminal.console import console, say
from loracle.commands.terminal.display import live
from loracle.config.data.sources import described
from loracle.trackers import tracked

if TYPE_CHECKING:
    from loracle.config.settings import RunConfig
    from loracle.records.events import Listener


@contextmanager
def shown_and_tracked(config: RunConfig) -> Iterator[Listener]:
    """A listener that shows a run, and tells the trackers of its config.

    Raises:
        ConfigError: see `trackers.tracked`.
    """
    errors = console(errors=True)
    own = config.objective is not None
    about = {} if own else {"model": config.model, "data": described(config.data.train)}
    about |= {"metric": config.metric, "preset": config.search.preset, "seed": str(config.search.seed)}
    with (
        live(config) as show,
        tracked(config.report_to, config.output, show, lambda text: say(errors, text), about) as listen,
    ):
        yield listen
