"""Foreign names of knobs: what may be relied on, and what only looks alike."""

from __future__ import annotations

from itertools import chain

import pytest

from loracle.config.knobs import KNOBS
from loracle.config.spellings import SPELLINGS, meant_by


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "learning_rate"),
        ("LR", "learning_rate"),
        ("learningRate", "learning_rate"),
        ("training_args/learning_rate", "learning_rate"),
        ("optim.lr", "learning_rate"),
        ("r", "rank"),
        ("lora_r", "rank"),
        ("lora_rank", "rank"),
        ("LoRA-R", "rank"),
        ("lora.r", "rank"),
        ("peft_config.lora_alpha", "alpha"),
        ("alpha", "alpha"),
        ("lora_dropout", "dropout"),
        ("per_device_train_batch_size", "batch_size"),
        ("train_batch_size", "batch_size"),
        ("num_train_epochs", "epochs"),
        ("warmup_ratio", "warmup_fraction"),
        ("max_grad_norm", "max_gradient_norm"),
    ],
)
def test_usual_spellings_are_understood(name: str, meant: str) -> None:
    assert meant_by(name, SPELLINGS) == (meant, True)


@pytest.mark.parametrize("name", ["warmup_steps", "attention_dropout", "lr_decay", "leraning_rate", "beta1"])
def test_names_that_only_resemble_a_knob_are_not_taken_for_it(name: str) -> None:
    assert not meant_by(name, SPELLINGS)[1]


def test_a_name_that_only_resembles_a_knob_gives_a_hint() -> None:
    assert meant_by("leraning_rate", SPELLINGS) == ("learning_rate", False)
    assert meant_by("attention_dropout", SPELLINGS) == ("dropout", False)
    assert meant_by("lr", {"rank"}) == (None, False)


def test_no_spelling_stands_for_two_knobs_and_every_knob_of_numbers_is_there() -> None:
    """Names for values differ from library to library, so knobs of names have no spellings."""
    every = [*SPELLINGS, *chain(*SPELLINGS.values())]
    assert len(set(every)) == len(every)
    assert set(SPELLINGS) == {name for name, knob in KNOBS.items() if not knob.named}
