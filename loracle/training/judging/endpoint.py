"""A model behind an endpoint of the kind of OpenAI's as the judge: it reads question and answer, and rates.

The key comes from an environment variable and goes into the header of a request and nowhere else.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from types import MappingProxyType
from typing import Any

from loracle.config.metrics.settings import JudgeConfig, ScoringConfig
from loracle.errors import ConfigError, LoracleError
from loracle.records.failures import raised
from loracle.text.escape import printable
from loracle.text.patterns import Pattern
from loracle.training.judging.judge import Asked, filled

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # of HTTP: later it may work
_LONGEST_WAIT = 30.0  # seconds before the next try
_LARGEST = 4_000_000  # bytes of an answer
_UNREADABLE = 0.1  # of the answers may hold no rating


class JudgeError(LoracleError):
    """The judge cannot be asked, or says nothing of use. The trial is trained again when the run goes on."""


class _TryAgain(Exception):
    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def make(name: str, settings: ScoringConfig) -> EndpointJudge:
    """Raises ConfigError where the key's variable is not set."""
    assert settings.judge is not None
    variable = settings.judge.key_variable
    if variable is not None and not os.environ.get(variable):
        raise ConfigError(f"scoring.judge.key_variable: {variable} is not set in the environment")
    return EndpointJudge(settings.judge)


class EndpointJudge:
    """Asks the endpoint about each answer, several at a time. The same question is asked once."""

    sources: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: JudgeConfig) -> None:
        self._settings = settings
        self._pattern = Pattern(settings.pattern, "scoring.judge.pattern")

    def check(self, items: Sequence[Asked]) -> None:
        """Asks about one reference."""
        reference = str(items[0]["reference"])
        try:
            said = self._ask(self._question(reference, reference, items[0]))
        except JudgeError as error:
            raise ConfigError(str(error)) from None
        if self._rating(said) is None:
            raise ConfigError(f"{self._where()} gave no rating, asked about a reference: {_shown(said)}")

    def rate(
        self, predictions: Sequence[str], references: Sequence[str], items: Sequence[Asked]
    ) -> list[float]:
        """Ratings on the judge's scale; the lowest where it gives none to an answer, again and again.

        Raises:
            JudgeError: it does not answer, or more than a tenth of what it says holds no rating.
        """
        questions = [self._question(*each) for each in zip(predictions, references, items, strict=True)]
        different = list(dict.fromkeys(questions))
        pool = ThreadPoolExecutor(self._settings.parallel)
        try:
            found = dict(zip(different, pool.map(self._rated, different), strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        missing = [said for rating, said in found.values() if rating is None]
        if len(missing) > max(1, _UNREADABLE * len(found)):
            raise JudgeError(
                f"{self._where()} gave no rating from {self._settings.lowest:g} to "
                f"{self._settings.highest:g} for {len(missing)} of {len(found)} answers; the first was "
                f"{_shown(missing[0])}"
            )
        rated = (found[question][0] for question in questions)
        return [self._settings.lowest if rating is None else rating for rating in rated]

    def _rated(self, question: str) -> tuple[float | None, str]:
        said = ""
        for _ in range(2):  # a model may say it otherwise when it is asked again
            said = self._ask(question)
            if (rating := self._rating(said)) is not None:
                return rating, said
        return None, said

    def _rating(self, said: str) -> float | None:
        """The last rating that is on the scale."""
        found = self._pattern.last(said)
        try:
            rating = float(found) if found is not None else None
        except ValueError:
            return None
        if rating is None or not self._settings.lowest <= rating <= self._settings.highest:
            return None
        return rating

    def _question(self, prediction: str, reference: str, item: Asked) -> str:
        values = {"prediction": prediction, "reference": reference, "prompt": str(item["prompt"])}
        values |= {"lowest": f"{self._settings.lowest:g}", "highest": f"{self._settings.highest:g}"}
        return filled(self._settings.prompt, values)

    def _ask(self, question: str) -> str:
        settings = self._settings
        for attempt in range(settings.retries + 1):
            try:
                return self._request(question)
            except _TryAgain as error:
                reason = error
            if attempt < settings.retries:
                time.sleep(min(_LONGEST_WAIT, reason.wait if reason.wait is not None else 0.5 * 2**attempt))
        raise JudgeError(f"{self._where()} did not answer in {settings.retries + 1} tries: {reason}")

    def _request(self, question: str) -> str:
        settings = self._settings
        headers = {"Content-Type": "application/json"}
        if settings.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(settings.key_variable, '')}"
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": settings.max_tokens,
        }
        url = f"{settings.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=settings.timeout) as response:
                content = response.read(_LARGEST)
        except urllib.error.HTTPError as error:
            error.close()
            said = f"HTTP {error.code} {printable(str(error.reason), 100)}"
            if error.code not in _AGAIN:
                raise JudgeError(f"{self._where()} refused: {said}") from None
            raise _TryAgain(said, _seconds(error.headers.get("Retry-After"))) from None
        except (OSError, ValueError, HTTPException) as error:  # no connection, a timeout, half an answer
            raise _TryAgain(raised(error, 200)) from None
        try:
            return str(json.loads(content)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError):
            raise _TryAgain(
                f"not what an endpoint answers: {_shown(content.decode(errors='replace'))}"
            ) from None

    def _where(self) -> str:
        return f"scoring.judge: {printable(self._settings.url, 200)}"


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:  # a date
        return None


def _shown(text: str) -> str:
    return repr(printable(text, 120))
