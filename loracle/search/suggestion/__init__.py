"""The answer before the first trial: `suggest`."""

from loracle.search.suggestion.answer import suggest as suggest
