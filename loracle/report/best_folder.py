"""What a run leaves to be used: `best/`, the adapter with its tokenizer, recipe and card; or `best.yaml`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loracle.config.settings import RunConfig
from loracle.records.sizes import Sizes
from loracle.records.trial_files import BASE_PLACE
from loracle.report.folders import final_adapter
from loracle.report.model_card import model_card
from loracle.report.recipe import own_recipe_text, recipe, recipe_text
from loracle.report.verdict import Comparison
from loracle.text.files import move_files, write_atomically


def write_best(config: RunConfig, comparison: Comparison, sizes: Sizes | None) -> Path | None:
    """Writes what a user should use, of the better one of winner and standard; None if neither was trained.

    `best/` is made beside its place and moved file by file, so that no file in it is ever half written, and
    what else is in it stays. Its adapter names the base model where that is now, whatever it was called when
    the adapter was trained.

    Args:
        config: of the run.
        comparison: says whose settings are the better ones.
        sizes: of a run with the built-in trainer; None: the trainer is the user's own.
    """
    chosen, outcome = comparison.sides[comparison.best]
    if sizes is None:
        path = config.output / "best.yaml"
        write_atomically(path, own_recipe_text(config, chosen, comparison.best))
        return path
    if outcome.failure is not None:
        return None
    folder = config.output / "best"
    partial = folder.with_name("best.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(final_adapter(config.output, comparison.best), partial)
    saved = _settings_of_adapter(partial / "adapter_config.json", config.model)
    weights = saved.get("target_parameters") or []
    modules = saved.get("target_modules") or []
    n_blocks = None if sizes.blocks is None else sizes.rows
    content = recipe(
        config, chosen, sizes.train, outcome.metrics, weights, modules, n_blocks, chats=sizes.chats
    )
    write_atomically(partial / "recipe.yaml", recipe_text(content))
    write_atomically(partial / "README.md", model_card(config, comparison, sizes, content))
    move_files(partial, folder)
    return folder


def _settings_of_adapter(path: Path, model: str) -> dict[str, Any]:
    """PEFT's settings of an adapter, which name this base model from now on."""
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if saved.get(BASE_PLACE) != model:
        saved[BASE_PLACE] = model
        write_atomically(path, json.dumps(saved, indent=2, sort_keys=True))
    return saved
