from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import copy_rows, save_tiny_model
from peft import PeftModel
from small_tokenizers import CHARACTERS
from transformers import AutoModelForCausalLM

from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, DataError, ModelError, SpaceError
from loracle.records.codec import json_text
from loracle.records.objective import Objective, Part, Progress, TableObjective
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import read_items, read_outcome, write_outcome
from loracle.text.files import write_atomically
from loracle.training import loop as training
from loracle.training import trial as work
from loracle.training.model.base_model import Base, Batch
from loracle.training.model.checksum import weights_fingerprint
from loracle.training.model.output.loss import add_gradient, counted_losses
from loracle.training.objective import TrainingObjective
from loracle.training.scoring import measuring as scoring
from loracle.training.scoring import score

Write = Callable[[str, list[dict[str, Any]]], Path]
Make = Callable[..., TrainingObjective]
CONFIG = {"rank": 8, "alpha_ratio": 2, "dropout": 0.1, "batch_size": 16, "learning_rate": 5e-3}
EXACT = {"metric": "exact_match", "max_new_tokens": 6}


def run_config(model: Path, train: Path, **changes: Any) -> RunConfig:
    data = {"train": train, "proxy_minimum": 20, "max_length": 64} | changes.pop("data", {})
    return RunConfig.model_validate({"model": str(model), "data": data, "device": "cpu"} | changes)


@pytest.fixture
def make(tiny_model: Path, write_rows: Write) -> Make:
    def build(**changes: Any) -> TrainingObjective:
        return TrainingObjective.from_config(
            run_config(tiny_model, write_rows("t.jsonl", copy_rows(100, 5)), **changes)
        )

    return build


def quality(outcome: Outcome) -> dict[str, float]:
    """All metrics but those of memory, which the system counts."""
    return {name: value for name, value in outcome.metrics.items() if not name.endswith("_bytes")}


def test_sizes_and_attributes(make: Make) -> None:
    objective = make(data={"proxy": 0.5, "validation_limit": 4})
    assert (objective.n_train, objective.n_proxy) == (80, 40)
    assert len(objective.splits.validation) == 10
    assert objective.size_at(0.25) == 20
    assert objective.dropped == {"train": 0, "validation": 0, "test": 0}


def test_a_trial_writes_everything_that_explains_it(make: Make, tmp_path: Path) -> None:
    objective: Objective = make(scoring=EXACT)
    told: list[Any] = []
    folder = tmp_path / "trials" / "0"
    outcome = objective.run(CONFIG, seed=3, folder=folder, progress=lambda *step: told.append(step))
    seen = [step for step in told if "scoring" not in step and "writing" not in step]
    assert outcome.failure is None
    assert sorted(path.name for path in folder.iterdir()) == [
        "items.jsonl",
        "log.txt",
        "provenance.json",
    ]
    assert outcome.value == outcome.metrics["exact_match"]
    assert outcome.curve is not None
    assert outcome.curve.steps == (1, 2)
    assert outcome.curve.tokens[-1] == outcome.metrics["tokens"]
    assert min(map(len, (outcome.curve.learning_rates, outcome.curve.gradient_norms))) == 2
    assert sum(outcome.seconds_by_part.values()) == pytest.approx(outcome.seconds)
    assert set(outcome.seconds_by_part) == {"training", "scoring", "other"}
    items = read_items(folder)
    assert len(items) == 10
    assert set(items[0]) == {"index", "loss", "tokens", "correct", "prediction"}
    lines = (folder / "log.txt").read_text().splitlines()
    assert len([line for line in lines if line[0].isdigit()]) == len(seen) == 2
    assert seen[-1][:2] == (2, 2)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["seed"] == 3
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["n_examples"] == 20
    assert provenance["scored_on"] == {"split": "validation", "n_examples": 10}
    assert provenance["device"] == "cpu"


def test_values_do_not_depend_on_what_ran_before(make: Make, tmp_path: Path) -> None:
    objective = make()
    first = objective.run(CONFIG, seed=0, folder=tmp_path / "a")
    objective.run(CONFIG | {"rank": 2, "learning_rate": 1e-3}, seed=1, folder=tmp_path / "b")
    again = objective.run(CONFIG, seed=0, folder=tmp_path / "c")
    fresh = make().run(CONFIG, seed=0, folder=tmp_path / "d")
    assert first.value == again.value == fresh.value
    assert quality(first) == quality(again) == quality(fresh)
    assert (tmp_path / "a" / "items.jsonl").read_text() == (tmp_path / "d" / "items.jsonl").read_text()


def test_a_fraction_trains_on_exactly_that_much(make: Make, tmp_path: Path) -> None:
    objective = make()
    for fraction, n in ((0.05, 4), (1.0, 80)):
        outcome = objective.run(CONFIG, seed=0, folder=tmp_path / str(n), fraction=fraction)
        assert outcome.metrics["n_examples"] == n == objective.size_at(fraction)


def test_value_is_larger_for_a_better_training(make: Make, tmp_path: Path) -> None:
    objective = make(training={"epochs": 8})
    good = objective.run(CONFIG | {"learning_rate": 1e-2}, seed=0, folder=tmp_path / "a")
    poor = objective.run(CONFIG | {"learning_rate": 1e-6}, seed=0, folder=tmp_path / "b")
    assert good.value is not None
    assert poor.value is not None
    assert good.value > poor.value
    assert good.value == -good.metrics["validation_loss"]


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_the_saved_adapter_gives_the_reported_score(make: Make, tmp_path: Path, variant: str) -> None:
    objective = make(training={"epochs": 4, "variant": variant})
    adapter = tmp_path / "best"
    outcome = objective.final(CONFIG, seed=0, folder=tmp_path / "final", adapter=adapter)
    assert outcome.failure is None
    assert outcome.metrics["n_examples"] == 80
    assert outcome.value == outcome.metrics["test_value"] == -outcome.metrics["test_loss"]
    assert outcome.metrics["low"] <= outcome.value <= outcome.metrics["high"]
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == objective.base.name
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "best.partial").exists()
    assert weights_fingerprint(objective.base.model) == objective.base.fingerprint
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(objective.base.name, dtype=torch.float32), adapter
    )
    own = type(objective.base)(**(vars(objective.base) | {"model": loaded.get_base_model().eval()}))
    again = score(own, objective.questions["test"], objective.config.scoring)
    assert again.value == pytest.approx(outcome.value, rel=1e-4)


def test_long_examples_are_counted(make: Make) -> None:
    objective = make(data={"max_length": 15})
    assert objective.dropped["train"] > 0
    assert objective.n_train == 80 - objective.dropped["train"]
    with pytest.raises(DataError, match=r"t.jsonl:\d+: \d+ tokens, but 15 are allowed; .*raise data"):
        make(data={"max_length": 15, "too_long": "error"})


def test_a_model_reads_no_more_than_it_can(tmp_path: Path, write_rows: Write) -> None:
    folder = save_tiny_model(tmp_path / "m", max_position_embeddings=15)
    train = write_rows("t.jsonl", copy_rows(100, 5))
    with pytest.raises(DataError, match=r"but 15 are allowed; shorten it, choose a model"):
        TrainingObjective.from_config(run_config(folder, train, data={"too_long": "error"}))


# -- failures ---------------------------------------------------------------------------------------


def test_a_diverged_trial_is_an_outcome(make: Make, tmp_path: Path) -> None:
    objective = make()
    config = CONFIG | {"learning_rate": 1e30, "batch_size": 4}
    outcome = objective.run(config, seed=0, folder=tmp_path / "a")
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.DIVERGED
    assert outcome.value is None
    assert objective.run(CONFIG, seed=0, folder=tmp_path / "b").value is not None


def test_a_score_that_is_not_a_number_is_divergence(make: Make, tmp_path: Path) -> None:
    config = CONFIG | {"learning_rate": 1e30, "batch_size": 80}  # one step, then nothing but NaN
    outcome = make().run(config, seed=0, folder=tmp_path)
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.DIVERGED
    assert "validation loss" in outcome.failure.message


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), FailureKind.OUT_OF_MEMORY, "rank 8"),
        (RuntimeError("MPS backend out of memory"), FailureKind.OUT_OF_MEMORY, "MPS backend"),
        (MemoryError(), FailureKind.OUT_OF_MEMORY, "no memory left"),
        (ZeroDivisionError("by zero"), FailureKind.CRASHED, "ZeroDivisionError: by zero"),
    ],
)
def test_what_goes_wrong_is_typed(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: FailureKind,
    message: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    objective = make()
    monkeypatch.setattr(work, "score", fail)
    outcome = objective.run(CONFIG, seed=0, folder=tmp_path)
    assert outcome.failure is not None
    assert outcome.failure.kind == kind
    assert message in outcome.failure.message
    assert "in fail" in outcome.failure.traceback_tail
    assert weights_fingerprint(objective.base.model) == objective.base.fingerprint


def test_scoring_tells_how_far_it_is(make: Make, tmp_path: Path) -> None:
    told: list[Any] = []
    objective = make(scoring=EXACT | {"batch_size": 4})
    outcome = objective.run(CONFIG, seed=3, folder=tmp_path / "a", progress=lambda *step: told.append(step))
    assert [step for step in told if step[3:] == ("scoring",)] == [
        (done, 10, None, "scoring") for done in (4, 8, 10)
    ]
    written = [step[0] for step in told if step[3:] == ("writing",)]
    total = {step[1] for step in told if step[3:] == ("writing",)}.pop()
    assert written == sorted(written)  # also within a batch, with every token
    assert written[-1] == total <= 10
    quiet = objective.run(CONFIG, seed=3, folder=tmp_path / "b")
    assert quality(quiet) == quality(outcome)


def trained(steps: list[int]) -> Progress:
    """Takes the steps of trainings alone."""

    def progress(step: int, total: int, loss: float | None, part: Part = "training", /) -> None:
        if part == "training":
            steps.append(step)

    return progress


# -- out of memory ----------------------------------------------------------------------------------


def limited(
    monkeypatch: pytest.MonkeyPatch, limit: int, during: Literal["training", "scoring"] = "training"
) -> list[tuple[int, bool]]:
    """Lets the model take no more than `limit` sequences at a time; returns what was tried."""
    tried = []

    real: Any = add_gradient if during == "training" else counted_losses

    def guard(base: Base, batch: Batch, *more: Any) -> Any:
        tried.append((len(batch.inputs), torch.is_grad_enabled()))
        if len(batch.inputs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(base, batch, *more)

    monkeypatch.setattr(training if during == "training" else scoring, real.__name__, guard)
    return tried


def test_out_of_memory_is_tried_again_in_smaller_parts(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make(training={"micro_batch": 8, "epochs": 16})
    config = CONFIG | {"dropout": 0.3}
    expected = objective.run(config, seed=0, folder=tmp_path / "a")
    assert expected.metrics["steps"] == 20
    assert expected.metrics["micro_batch"] == 8
    assert "attempts" not in expected.metrics
    limited(monkeypatch, 2)
    outcome = objective.run(config, seed=0, folder=tmp_path / "b")
    assert outcome.value == pytest.approx(expected.value, rel=1e-5)
    assert outcome.metrics["micro_batch"] == 2
    assert outcome.metrics["attempts"] == 3
    for number, size in ((1, 8), (2, 4)):
        attempt = json.loads((tmp_path / "b" / f"attempt-{number}.json").read_text())
        assert attempt["metrics"]["micro_batch"] == size
        assert attempt["failure"]["kind"] == "out_of_memory"
        assert "in guard" in attempt["failure"]["traceback_tail"]
    assert not (tmp_path / "a" / "attempt-1.json").exists()
    losses = [np.loadtxt(tmp_path / name / "log.txt", skiprows=2)[:, 1] for name in "ab"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_next_trial_does_not_run_into_the_same_wall(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make(output=tmp_path / "run", training={"micro_batch": 8})
    limited(monkeypatch, 4)
    folder = tmp_path / "run" / "trials" / "0000"
    write_outcome(folder, CONFIG, objective.run(CONFIG, seed=0, folder=folder))
    larger = CONFIG | {"rank": 16}
    again = objective.run(larger, seed=0, folder=tmp_path / "run" / "trials" / "0001")
    assert again.metrics["micro_batch"] == 4
    assert "attempts" not in again.metrics
    fresh = make(output=tmp_path / "run", training={"micro_batch": 8}).run(
        larger, seed=0, folder=tmp_path / "elsewhere"
    )  # a new worker
    assert fresh.metrics["micro_batch"] == 4
    assert quality(fresh) == quality(again)


def test_out_of_memory_with_one_example_is_a_failure_that_says_what_was_tried(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make(training={"micro_batch": 8})
    tried = limited(monkeypatch, 0)
    outcome = objective.run(CONFIG, seed=0, folder=tmp_path)
    assert [size for size, _ in tried] == [8, 4, 2, 1]
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.OUT_OF_MEMORY
    assert "rank 8, batch 16, micro-batch 8, 4, 2 and then 1" in outcome.failure.message
    assert "in guard" in outcome.failure.traceback_tail
    assert outcome.metrics["micro_batch"] == 1
    assert weights_fingerprint(objective.base.model) == objective.base.fingerprint


def test_scoring_goes_on_in_smaller_batches_without_training_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make()
    expected = objective.run(CONFIG, seed=0, folder=tmp_path / "a")
    tried = limited(monkeypatch, 3, "scoring")
    steps: list[int] = []
    outcome = objective.run(CONFIG, seed=0, folder=tmp_path / "b", progress=trained(steps))
    assert [size for size, _ in tried] == [10, 10, 10, 8, 4, 2, 2, 2, 2, 2]
    assert steps == [1, 2]
    assert outcome.value == pytest.approx(expected.value, rel=1e-5)


def test_no_training_is_repeated_because_scoring_had_no_memory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make(training={"micro_batch": 8})
    limited(monkeypatch, 0, "scoring")
    steps: list[int] = []
    outcome = objective.run(CONFIG, seed=0, folder=tmp_path, progress=trained(steps))
    assert steps == [1, 2]
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.OUT_OF_MEMORY
    assert "while scoring one example at a time" in outcome.failure.message


SHORTAGE = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from loracle.config.settings import RunConfig
from loracle.training.objective import TrainingObjective
objective = TrainingObjective.from_config(RunConfig.model_validate_json(sys.argv[1]))
objective.memory
config = {"rank": 4, "alpha": 8, "batch_size": 16, "learning_rate": 1e-3}
for name in ("plenty", "little"):
    outcome = objective.run(config, seed=0, folder=Path(sys.argv[2]) / name)
    print(outcome.value, outcome.metrics["micro_batch"], outcome.metrics.get("attempts"))
    if name == "little":
        break
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


@pytest.mark.slow  # half a minute; injected shortages are dealt with in the same way
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the address space as Linux does")
def test_a_real_shortage_gives_the_same_result(tmp_path: Path, write_rows: Write) -> None:
    """The activations of 16 sequences take about 1 GB here, those of 8 half of it; the limit is between."""
    rows = [{"prompt": CHARACTERS[i], "completion": "ab" * 10 + f"{i:03}"} for i in range(60)]
    folder = save_tiny_model(tmp_path / "m", intermediate_size=60_000)
    config = run_config(
        folder, write_rows("t.jsonl", rows), data={"proxy_minimum": 16}, training={"micro_batch": 16}
    )
    command = [sys.executable, "-c", SHORTAGE, config.model_dump_json(), str(tmp_path), str(775_000_000)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plenty, little = (line.split() for line in done.stdout.splitlines())
    assert float(little[0]) == pytest.approx(float(plenty[0]), rel=1e-5)
    assert plenty[1:] == ["16.0", "None"]
    assert little[1:] == ["8.0", "2.0"]
    first = json.loads((tmp_path / "little" / "attempt-1.json").read_text())
    assert "can't allocate memory" in first["failure"]["message"]


def test_an_interrupt_passes_through(make: Make, tmp_path: Path) -> None:
    def interrupt(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    objective = make()
    with pytest.raises(KeyboardInterrupt):
        objective.run(CONFIG, seed=0, folder=tmp_path, progress=interrupt)
    assert objective.run(CONFIG, seed=0, folder=tmp_path).value is not None


# -- bad input --------------------------------------------------------------------------------------


def test_data_is_checked_before_the_model(tmp_path: Path, write_rows: Write) -> None:
    nowhere = tmp_path / "no model"
    with pytest.raises(DataError, match="does not exist"):
        TrainingObjective.from_config(run_config(nowhere, tmp_path / "none.jsonl"))
    train = write_rows("t.jsonl", copy_rows(100, 5))
    with pytest.raises(DataError, match="finds no answer"):
        TrainingObjective.from_config(run_config(nowhere, train, scoring=EXACT | {"answer_pattern": r"\d+"}))
    with pytest.raises(ModelError, match="does not exist"):
        TrainingObjective.from_config(run_config(nowhere, train))


def test_unknown_targets_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="no module 'q_prj'; did you mean 'q_proj'"):
        make(training={"targets": ["v_proj", "q_prj"]})


def test_unknown_knobs_are_errors_not_outcomes(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no knob 'rnak'; did you mean 'rank'"):
        make().run({"rnak": 1}, seed=0, folder=tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, write_rows: Write) -> None:
    folder = save_tiny_model(tmp_path / "m", vocab_size=20)
    with pytest.raises(ModelError, match=r"makes token \d+, but the model knows 20"):
        TrainingObjective.from_config(run_config(folder, write_rows("t.jsonl", copy_rows(100, 5))))


# -- table and files --------------------------------------------------------------------------------


def test_a_table_answers_by_index(tmp_path: Path) -> None:
    space = SearchSpace((Knob("rank", (1, 2, 4)),))
    failure = Failure(FailureKind.DIVERGED, "diverged")
    table: Objective = TableObjective(space, {0: 0.5, 1: failure})
    assert table.run({"rank": 1}, seed=0, folder=tmp_path).value == 0.5
    assert table.run({"rank": 2}, seed=0, folder=tmp_path).failure == failure
    with pytest.raises(SpaceError, match="no value for index 2"):
        table.run({"rank": 4}, seed=0, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    path.write_text("{broken")
    assert read_outcome(tmp_path, {}) is None


def test_items_survive_odd_line_ends(tmp_path: Path) -> None:
    items = [{"index": 0, "prediction": "a\u2028b\x85c\nd"}]
    write_atomically(tmp_path / "items.jsonl", "".join(json_text(item, None) for item in items))
    assert read_items(tmp_path) == items


def test_the_same_value_in_another_process(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    outcome = make().run(CONFIG, seed=0, folder=tmp_path / "a")
    script = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path\n"
        "from loracle.config.settings import RunConfig\n"
        "from loracle.training.objective import TrainingObjective\n"
        "config = RunConfig.model_validate_json(sys.argv[1])\n"
        f"print(repr(TrainingObjective.from_config(config).run({CONFIG}, seed=0, "
        "folder=Path(sys.argv[2])).value))"
    )
    config = run_config(tiny_model, tmp_path / "t.jsonl").model_dump_json()
    command = [sys.executable, "-c", script, config, str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == outcome.value


def test_dropout_of_the_model_itself_is_told_to_be_off(tmp_path: Path, write_rows: Write) -> None:
    folder = save_tiny_model(tmp_path / "m", attention_dropout=0.1)
    objective = TrainingObjective.from_config(run_config(folder, write_rows("t.jsonl", copy_rows(100, 5))))
    (text,) = [notice.text for notice in objective.notices if notice.name == "own_dropout_off"]
    assert text.startswith("the model's own dropout (attention_dropout 0.1) is off in every training")
