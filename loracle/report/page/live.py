"""The page of a run that goes on: written anew when a trial has ended, and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from loracle.records.events import Event, Listener, Noticed, TrialFinished
from loracle.records.failures import raised
from loracle.records.notices import Notice
from loracle.records.trial import History
from loracle.report.findings.finding import Subject
from loracle.report.findings.records import Findings
from loracle.report.page.page import FILE, write_page
from loracle.report.verdict.stored import Finished

_SHARE = 0.02  # of the time that passes: what the page may take while the search goes on


class LivePage:
    """Writes `report.html` of a run; a page that cannot be written is told of, and stops no search.

    Args:
        subject: the run.
        history: gives all trials so far.
        notices: what the user must see, as it is known.
        listen: told of what happens, as without a page.
        clock: seconds, increasing.
    """

    def __init__(
        self,
        subject: Subject,
        history: Callable[[], History],
        notices: Sequence[Notice],
        listen: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject, self._history, self._notices = subject, history, notices
        self._listen, self._clock = listen, clock
        self._ended, self._took = -1e9, 0.0  # when the last page was done, and how long it took
        self._works = True

    def __call__(self, event: Event) -> None:
        """Tells the event on; after a trial the page is written anew, unless that would take too long."""
        self._listen(event)
        if not isinstance(event, TrialFinished) or not self._works:
            return
        now = self._clock()
        if now - self._ended < self._took / _SHARE:
            return
        self._write(lambda: self._subject.find(self._history(), notices=self._notices, whole=False))
        self._ended = self._clock()
        self._took = self._ended - now

    def finish(self, history: History, finished: Finished, notices: Sequence[Notice]) -> bool:
        """Writes the whole page at the end of a run; whether it is there. If not, one of before stays."""
        return self._write(
            lambda: self._subject.find(history, finished.comparison, finished.stopped, notices=notices)
        )

    def _write(self, find: Callable[[], Findings]) -> bool:
        try:
            write_page(find(), self._subject.config.output / FILE)
        except Exception as error:  # hours of training are not lost for a page
            self._works = False
            text = (
                f"{FILE} could not be written ({raised(error)}); loracle report makes it from the run folder"
            )
            self._listen(Noticed(Notice("result", "page_not_written", text)))
            return False
        return True
