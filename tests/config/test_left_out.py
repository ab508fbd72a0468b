"""Packages that are kept out of a process."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loracle.config.execution.left_out import left_out


def test_what_is_left_out_is_as_if_it_were_not_installed_and_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("left_out_here", "imported_before"):
        (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    before = importlib.import_module("imported_before")
    with left_out("left_out_here", "imported_before", "never_installed"):
        assert find_spec("left_out_here") is None
        with pytest.raises(ImportError, match="left_out_here"):
            importlib.import_module("left_out_here")
        assert importlib.import_module("imported_before") is before
    assert "never_installed" not in sys.modules
    assert importlib.import_module("left_out_here").__name__ == "left_out_here"
