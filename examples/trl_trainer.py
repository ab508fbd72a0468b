"""Loracle's search around TRL's SFTTrainer; stop it and start it again, and it goes on."""

from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import loracle
from loracle import hf

DEMO = Path(loracle.__file__).parent / "demo"  # a tiny model and its task

with TemporaryDirectory() as folder:
    files = {"train": str(DEMO / "train.jsonl"), "validation": str(DEMO / "validation.jsonl")}
    train = Dataset.from_json(files["train"], cache_dir=folder).select(range(64))
    validation = Dataset.from_json(files["validation"], cache_dir=folder).select(range(32))

    def make_trainer(config: dict[str, float]) -> SFTTrainer:
        arguments = SFTConfig(
            folder,
            max_steps=4,
            learning_rate=config["lr"],
            per_device_train_batch_size=config["batch_size"],
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        rank = config["lora_r"]
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        return SFTTrainer(
            str(DEMO / "base"),
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            peft_config=lora,
        )

    space = {"lr": (1e-5, 1e-2), "lora_r": [4, 8, 16], "batch_size": [4, 8]}
    hf.search(make_trainer, space, trials=2, folder=Path(folder) / "search")
    found = hf.search(make_trainer, space, trials=3, folder=Path(folder) / "search")  # one more
    print("rank", found.params["lora_r"], found.params, found.value, len(found.trials))
