"""No test measures a time; the layout of the rooms is in ARCHITECTURE.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_measures_a_time(path: Path) -> None:
    """A speed belongs into `benchmarks/`, as a ratio; what a test waits for has minutes to come."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & {
        "perf_counter",
        "perf_counter_ns",
        "process_time",
        "thread_time",
        "getloadavg",
        "ru_utime",
    }
    for node in ast.walk(tree):  # `monotonic` is for the ends of waiting loops alone
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            inside = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            assert "monotonic" not in inside, f"{path.name}:{node.lineno}"
