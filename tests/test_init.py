"""Importing the package is quick and loads nothing heavy; every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import loracle

HEAVY = ("torch", "transformers", "optuna", "peft", "gpytorch", "botorch", "numpy", "pydantic")
IMPORT = """
import json, sys, time
began = time.perf_counter()
import loracle
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def test_import_is_quick_and_light() -> None:
    runs = []
    for _ in range(3):  # the best of three, for a busy machine
        output = subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        ).stdout
        runs.append(json.loads(output))
    assert min(run["seconds"] for run in runs) < 0.3
    assert not set(HEAVY) & set(runs[0]["modules"])


@pytest.mark.parametrize("name", loracle.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(loracle, name) is not None
    assert name in dir(loracle)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sampler'"):
        loracle.Sampler  # noqa: B018
