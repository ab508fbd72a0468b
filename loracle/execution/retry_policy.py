"""What is done about a trial that failed, and about workers that do not start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loracle.records.trial import FailureKind

# What happens to a trial that failed in this way. `again`: it is run once more, in a new worker. `keep`: it
# is recorded at once; the objective itself has tried a smaller micro-batch where memory ran out, and whoever
# continues the run repeats what was interrupted.
POLICY: Mapping[FailureKind, Literal["again", "keep"]] = {
    FailureKind.OUT_OF_MEMORY: "keep",
    FailureKind.DIVERGED: "keep",
    FailureKind.TIMEOUT: "keep",
    FailureKind.CRASHED: "again",
    FailureKind.LOST: "again",
    FailureKind.INTERRUPTED: "keep",
}
ATTEMPTS = 2
FAILED_STARTS = 3  # workers in a row that end while they load: then the cause is not chance
