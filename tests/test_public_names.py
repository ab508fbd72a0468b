"""Importing the package loads nothing heavy, so it is quick; every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import loracle

HEAVY = ("torch", "transformers", "optuna", "peft", "gpytorch", "botorch", "numpy", "pydantic")
IMPORT = "import json, sys, loracle; print(json.dumps(sorted(sys.modules)))"


def test_import_is_light() -> None:
    """How long it takes is in `benchmarks/speed.py`."""
    output = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout
    modules = json.loads(output)
    assert not set(HEAVY) & set(modules)
    own = {name for name in modules if name.partition(".")[0] == "loracle"}
    assert own <= {"loracle", "loracle.errors"}


@pytest.mark.parametrize("name", loracle.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(loracle, name) is not None
    assert name in dir(loracle)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sampler'"):
        loracle.Sampler  # noqa: B018
