"""The driver of a run carries no model: a worker loads it, and says what a run has to know."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loracle.config.loading import load_config
from loracle.run.tune import tune

# A command, which says at its end what its process has loaded, models among it.
PROGRAM = """
import atexit, gc, json, sys

def said():
    heavy = ("torch", "transformers", "peft", "accelerate", "botorch", "gpytorch", "pandas")
    found = [name for name in heavy if name in sys.modules]
    if "transformers" in found:
        from transformers import PreTrainedModel
        found += [type(one).__name__ for one in gc.get_objects() if isinstance(one, PreTrainedModel)]
    sys.stderr.write("LOADED " + json.dumps(found))

atexit.register(said)
from loracle.cli import main
sys.argv[0] = "loracle"
main()
"""


# Begins every process of a command, and notes what a worker has loaded of packages that it should not need. A
# part of a package is looked for when the package is loaded, and not when it is asked whether it is there.
LISTENER = """
import os, sys

class Listener:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("scipy.", "pyarrow.", "bitsandbytes.", "peft.tuners.lora")):
            with open(os.environ["LORACLE_TEST_NOTES"], "a") as notes:
                notes.write(name.partition(".")[0] + "\\n")

if any(one.endswith("run/worker.py") for one in sys.orig_argv):
    sys.meta_path.insert(0, Listener())
"""


def loaded_by(*arguments: str | Path, **variables: str) -> list[str]:
    """Which heavy packages the command's process had loaded at its end."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    environment = {**os.environ, **variables}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    found: list[str] = json.loads(run.stderr.rpartition("LOADED ")[2])
    return found


def test_a_whole_run_loads_no_torch_into_its_driver_and_its_workers_only_what_they_need(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    path = run_config(execution={"workers": 1}, search={"trials": 2})
    (tmp_path / "sitecustomize.py").write_text(LISTENER, encoding="utf-8")
    notes, known = tmp_path / "notes", os.environ.get("PYTHONPATH", "")
    places = os.pathsep.join(filter(None, [str(tmp_path), known]))
    assert loaded_by("tune", path, PYTHONPATH=places, LORACLE_TEST_NOTES=str(notes)) == []
    assert set(notes.read_text(encoding="utf-8").split()) == {"peft"}  # the listener listens
    config = load_config(path)
    assert (config.output / "best" / "adapter_model.safetensors").exists()
    assert (config.output / "report.md").exists()
    page = (config.output / "report.html").read_text(encoding="utf-8")
    formats = re.findall(r"<summary>(\w+) <code>", page)
    assert set(formats) == {"peft", "axolotl", "llamafactory", "torchtune", "trl", "unsloth", "vllm"}
    assert loaded_by("report", config.output, "--to", tmp_path / "again.html") == []
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_run_that_recorded_no_base_model_has_its_torchtune_settings_from_report(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    """As earlier versions left it: `loracle report` reads the model's config itself, which takes torch."""
    path = run_config(execution={"workers": 1}, search={"trials": 1})
    loaded_by("tune", path)
    output = load_config(path).output
    page = (output / "report.html").read_text(encoding="utf-8")
    for recorded in output.glob("final/*/provenance.json"):
        content = json.loads(recorded.read_text(encoding="utf-8"))
        del content["base_model"]
        recorded.write_text(json.dumps(content), encoding="utf-8")
    assert "torch" in loaded_by("report", output, "--to", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
    (output / "report.html").unlink()
    assert loaded_by("tune", path) == []
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "<strong>torchtune.</strong>" in page
    assert "its config was not recorded; loracle report reads it" in page


@pytest.mark.slow  # the next test reads in a worker, too
@pytest.mark.parametrize("model", ["same", "minilm"])
def test_prompts_are_read_in_a_worker_where_features_stay_as_they_are(
    run_config: Callable[..., Path], model: str
) -> None:
    """The surrogate on language needs torch in the driver; the model that reads is not there."""
    language = {"model": model, "prompt": "plain-v1"}
    path = run_config(language=language, execution={"workers": 1}, search={"trials": 2, "preset": "language"})
    assert not any(name.endswith(("Model", "ForCausalLM")) for name in loaded_by("tune", path))
    assert not list(load_config(path).output.rglob("features*"))  # nothing stays behind


def test_what_a_worker_reads_is_what_the_driver_would_have_read(run_config: Callable[..., Path]) -> None:
    histories = []
    for workers in (0, 1):
        path = run_config(
            output=f"run{workers}",
            language={"model": "same", "prompt": "plain-v1"},
            execution={"workers": workers},
            search={"trials": 3, "preset": "language", "seed_configs": []},
        )
        histories.append([trial.index for trial in tune(load_config(path)).history.trials])
    assert histories[0] == histories[1]
    assert len(set(histories[0])) == 3
