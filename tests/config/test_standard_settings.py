"""Standard settings and names of presets, metrics and variants are written once; what repeats them agrees."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
import yaml
from places import ROOT

from loracle.config.loading import load_config
from loracle.config.metrics import METRICS
from loracle.config.new_file import write_config
from loracle.config.settings import RunConfig
from loracle.config.training.variants import VARIANTS
from loracle.records.standard_settings import STANDARD, PresetName
from loracle.search.presets import GOOD_PRACTICE, PRESETS

DOCS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TEMPLATE = files("loracle.config").joinpath("template.yaml").read_text(encoding="utf-8")


def test_a_config_that_names_none_has_the_standard_settings(tmp_path: Path) -> None:
    assert RunConfig.model_validate({"model": "m", "data": {"train": "t"}}).standard == STANDARD
    write_config(tmp_path / "new.yaml", "m", None)
    assert load_config(tmp_path / "new.yaml").standard == STANDARD


def test_the_search_tries_them_first() -> None:
    assert GOOD_PRACTICE[0] == STANDARD
    assert PRESETS["default"].seed_configs[0] == STANDARD


def test_the_configuration_page_names_them() -> None:
    (row,) = re.findall(r"\| `standard` \| (.*?) \|", DOCS)
    words = dict(part.split(" ") for part in row.split(", "))
    assert {name: float(value) for name, value in words.items()} == STANDARD


def test_presets_are_the_same_everywhere() -> None:
    names = get_args(PresetName)
    assert tuple(PRESETS) == names
    (row,) = re.findall(r"\| `preset` \| `default` \| (.*?): see", DOCS)
    assert tuple(re.findall(r"`(\w+)`", row)) == names
    (line,) = re.findall(r"preset: default +# (.*)", TEMPLATE)
    assert tuple(line.split(" | ")) == names
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in readme for name in names)


def test_the_page_of_metrics_lists_all_in_their_order() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(METRICS)


@pytest.mark.parametrize(("setting", "table"), [("variant", VARIANTS)])
def test_variants_are_the_same_everywhere(setting: str, table: Mapping[str, object]) -> None:
    (row,) = re.findall(rf"\| `{setting}` \| `\w+` \| (.*) \|", DOCS)
    assert re.findall(r"`(\w+)`", row) == list(table)
    (line,) = re.findall(rf"{setting}: \w+ +# (.*)", TEMPLATE)
    assert line.split(" | ") == list(table)


def test_what_the_template_shows_are_the_defaults() -> None:
    text = TEMPLATE.replace("{{model}}", "m").replace("{{train}}", "train.jsonl")
    plain = RunConfig.model_validate({"model": "m", "data": {"train": "train.jsonl"}})
    for section, content in yaml.safe_load(text).items():
        for name, value in content.items() if isinstance(content, dict) else ():
            default = getattr(plain, section)
            default = default[name] if isinstance(default, dict) else getattr(default, name)
            assert str(value) == str(default) or float(value) == default, f"{section}.{name}"
