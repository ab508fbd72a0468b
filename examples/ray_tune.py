"""Loracle's search in Ray Tune: only `search_alg` is new. Needs `pip install 'loracle[ray]'`."""

import math
from tempfile import TemporaryDirectory

import ray
from ray import tune

from loracle.ray_tune import LoracleSearch


def train(config: dict[str, float]) -> None:
    """Stands in for a training: a loss with its best step size where published runs have it."""
    step = math.log10(config["lora_alpha"] * config["lr"])
    tune.report({"loss": (step + 2.2) ** 2 + 0.3 / math.sqrt(config["lora_r"])})


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
with TemporaryDirectory() as folder:
    tuner = tune.Tuner(
        train,
        param_space={
            "lr": tune.loguniform(1e-5, 1e-2),
            "lora_r": tune.choice([4, 8, 16, 32]),
            "lora_alpha": tune.choice([8, 16, 32, 64]),
        },
        tune_config=tune.TuneConfig(
            search_alg=LoracleSearch(seed=0),
            metric="loss",
            mode="min",
            num_samples=6,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    best = tuner.fit().get_best_result()
    print("rank", best.config["lora_r"], best.config, best.metrics["loss"])
ray.shutdown()
