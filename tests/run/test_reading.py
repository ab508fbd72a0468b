"""Which model reads the prompts, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loracle.config.loading import load_config
from loracle.records.contents import READING
from loracle.run.prepare import prepare


@pytest.mark.parametrize("learnable", [False, True])
def test_the_tuned_model_reads_in_its_precision_or_in_the_one_that_is_named(
    run_config: Callable[..., Path], learnable: bool
) -> None:
    found = []
    for name in ("auto", "float32", "bfloat16"):
        language = {"model": "same", "prompt": "plain-v1", "dtype": name, "learnable_token": learnable}
        path = run_config(dtype="bfloat16", language=language, search={"preset": "language"})
        prepared = prepare(load_config(path), lambda event: None)
        prepared.executor.close()
        contents = prepared.search.contents
        found.append((contents[READING], contents["model that reads the prompts"]))
    assert [reading for reading, _ in found] == ["bfloat16 on cpu", "float32 on cpu", "bfloat16 on cpu"]
    assert found[0] == found[2]
    assert found[0][1] != found[1][1]
