"""`loracle report`, and the page that `loracle tune` leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from conftest import Loracle

from loracle.config.loading import load_config


def test_a_run_leaves_its_page_and_report_makes_it_again(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    path = run_config(scoring={"metric": "exact_match"}, search={"trials": 4})
    code, out, err = loracle("tune", path)
    assert code == 0, err
    output = load_config(path).output
    assert f"page:    {output / 'report.html'}" in out
    first = (output / "report.html").read_text(encoding="utf-8")
    assert 'id="recipe-0"' in first
    assert "<summary>axolotl" in first
    code, out, _ = loracle("report", output)
    assert (code, out) == (0, f"{output / 'report.html'}\n")
    assert (output / "report.html").read_text(encoding="utf-8") == first
    code, _, _ = loracle("report", output, "--to", tmp_path / "elsewhere.html")
    assert (tmp_path / "elsewhere.html").read_text(encoding="utf-8") == first
    code, out, _ = loracle("report", output, "--json")
    content = json.loads(out)
    assert content["finished"]
    assert len(content["trials"]) == 4
    assert content["comparison_data"]["standing"] in ("better", "worse", "no_difference", "same")
    assert {recipe["dialect"] for recipe in content["recipes"]} >= {"peft", "axolotl", "trl", "torchtune"}
    shown = {one["file"]: one["text"] for one in content["recipes"] if one["dialect"] == "torchtune"}
    loracle("export", output, tmp_path / "torchtune", "--to", "torchtune")
    written = {path.name: path.read_text() for path in (tmp_path / "torchtune").iterdir()}
    assert shown == {name: text for name, text in written.items() if name != "train.jsonl"}

    # Data that are no longer those of the run: formats that look at them are named, with what has them.
    assert content["without_recipe"] == {}
    rows = load_config(path).data.train
    assert isinstance(rows, Path)
    kept = rows.read_text(encoding="utf-8")
    rows.write_text(kept.replace("a", "b"), encoding="utf-8")
    content = json.loads(loracle("report", output, "--json")[1])
    assert {recipe["dialect"] for recipe in content["recipes"]} == {"peft", "torchtune", "vllm"}
    assert set(content["without_recipe"]) == {"axolotl", "llamafactory", "trl", "unsloth"}
    loracle("report", output, "--to", tmp_path / "elsewhere.html")
    page = (tmp_path / "elsewhere.html").read_text(encoding="utf-8")
    assert "<strong>axolotl.</strong> its settings depend on the rows, which are not read here" in page
    rows.write_text(kept, encoding="utf-8")

    # A run that is not over, or whose verdict is not kept, has a page of its trials.
    (output / "verdict.json").unlink()
    shutil.rmtree(output / "final")
    code, out, _ = loracle("report", output, "--json")
    content = json.loads(out)
    assert not content["finished"]
    assert content["recipes"] == []
    assert content["left_out"]["recipes"]


def test_what_is_no_run_or_cannot_be_written_is_refused_in_one_line(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    code, out, err = loracle("report", tmp_path / "none")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    path = run_config(search={"trials": 1})
    assert loracle("tune", path)[0] == 0
    code, out, err = loracle("report", load_config(path).output, "--to", tmp_path / "no/such/place.html")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "cannot be written" in err
