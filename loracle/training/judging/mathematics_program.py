"""Compares pairs of answers: a line of JSON in, `1` or `0` out. It ends when its input does."""

from __future__ import annotations

import contextlib
import json
import resource
import sys

_MEMORY = 4 << 30  # bytes of addresses


def main() -> None:
    """Reads pairs, reference first, until there are no more."""
    with contextlib.suppress(ValueError, OSError):  # less is allowed already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import parse, verify  # type: ignore[import-untyped,unused-ignore]

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        reference, answer = json.loads(line)
        try:
            # As it stands, and as a formula: the package looks for formulas in texts.
            pairs = ((reference, answer), (f"${reference}$", f"${answer}$"))
            same = any(
                verify(parse(a, parsing_timeout=None), parse(b, parsing_timeout=None), timeout_seconds=None)
                for a, b in pairs
            )
        except Exception:  # parsers and algebra raise anything about texts that are no mathematics
            same = False
        sys.stdout.write("1\n" if same else "0\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
