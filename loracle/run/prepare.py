"""A run made ready: data and model checked, the search half built, and workers found.

Everything that can be refused is refused here, before anything is trained.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loracle.config.cache_folder import cache_folder
from loracle.config.knobs import check_knobs
from loracle.config.settings import RunConfig, build_space
from loracle.config.training_plan import plan_training
from loracle.errors import ConfigError
from loracle.execution.local import Executor, InProcess, LocalWorkers, check_in_process
from loracle.records.contents import READING, file_hash
from loracle.records.events import Listener, PhaseStarted, Step
from loracle.records.notices import Notice, gathered
from loracle.records.objective import Report
from loracle.records.sizes import Sizes
from loracle.records.space import SearchSpace, with_alpha
from loracle.records.trial import History
from loracle.run.identity import Identity, common_settings
from loracle.run.search_notices import search_notices
from loracle.run.worker import PROGRAM, load_objective
from loracle.search.ensemble import EnsembleSettings
from loracle.search.presets import Preset, get_preset, with_standard
from loracle.search.prior import SHIPPED
from loracle.search.propose import propose, ranking
from loracle.training.memory.plan import MemoryModel, allowed

if TYPE_CHECKING:
    from loracle.language.features import Features
    from loracle.language.prompt import Prompt
    from loracle.language.reader import LanguageModel
    from loracle.search.presets import SurrogateSettings


@dataclass(frozen=True)
class Search:
    """The search half of a run, ready to choose.

    `memory` says which candidates can fit; None where trials run on other machines, or it cannot be known.
    `notices` are what the user must see about the space and how it is searched; `contents` holds hashes of
    the prior, or of the prompt and of the model that reads it.
    """

    space: SearchSpace
    preset: Preset
    features: Features | None
    seed: int
    memory: MemoryModel | None = None
    notices: tuple[Notice, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)

    def within(self, room: float | None) -> Search:
        """The same search where trainings may grow by `room` bytes, whatever is free just now."""
        return self if self.memory is None else replace(self, memory=replace(self.memory, room=room))

    def next(self, history: History) -> int | None:
        """The config to train next; None if there is none left."""
        chosen = propose(
            self.space,
            history,
            self.preset,
            features=self.features,
            seed=self.seed,
            allowed=None if self.memory is None else allowed(self.memory, self.space, history),
            strict=False,
        )
        return chosen[0] if chosen else None

    def ranking(self, history: History) -> list[int]:
        """Successful configs, the one to use first."""
        return ranking(self.space, history, self.preset, features=self.features, seed=self.seed)


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        search: chooses configs.
        executor: trains them.
        final: what a final training takes, in words; None where it would only repeat a trial.
        identity: what makes it the same run when it goes on.
        notices: what the user must see before anything is trained.
        sizes: how many examples are used; None: the trainer is the user's own.
    """

    search: Search
    executor: Executor
    final: str | None
    identity: Identity
    notices: tuple[Notice, ...]
    sizes: Sizes | None = None


def prepare(config: RunConfig, listen: Listener) -> Prepared:
    """Checks data and model, builds the search half, and starts where the trials run.

    The model is loaded where the trials run, which stays for them; here it is only known what was found.
    """
    executor = make_executor(config)
    try:
        return _prepare(config, executor, listen)
    except BaseException:
        executor.close()
        raise


def make_executor(config: RunConfig) -> Executor:
    """Where the trials of a run are trained.

    Raises:
        ConfigError: what is asked for is not there, or does not go together.
    """
    check_in_process(config.execution)
    if config.execution.workers == 0:
        return InProcess(lambda: load_objective(config))
    if config.execution.executor == "ray":
        from loracle.execution.ray_cluster import RayWorkers

        return RayWorkers(config, PROGRAM)
    return LocalWorkers(config, PROGRAM)


def _prepare(config: RunConfig, executor: Executor, listen: Listener) -> Prepared:
    if config.objective is None:
        listen(PhaseStarted("reading data and model"))
    report = executor.load()
    local = config.execution.executor == "local"
    memory = MemoryModel.from_json(report.memory) if report.memory and local else None
    search = prepare_search(config, report.sizes, listen)
    told = search_notices(config, search.space, memory)
    search = replace(search, memory=memory, notices=(*search.notices, *told))
    identity = Identity(
        {**report.contents, **search.contents},
        None if config.execution.storage is None else common_settings(config),
        None if memory is None else memory.room,
        platform.node(),
    )
    notices = gathered(report.notices, search.notices)
    return Prepared(search, executor, _final_training(report), identity, notices, report.sizes)


def search_space(config: RunConfig, n_examples: int | None) -> SearchSpace:
    """The space of a run whose trials train on `n_examples`; None: the trainer is the user's, and takes any
    knobs.

    Raises:
        SpaceError: the space is malformed, or a seed config does not fit it.
        ConfigError: a knob, of the space or of the standard settings, is nothing that the trainer knows.
    """
    space = build_space(config.space, batch_limit=n_examples)
    if config.objective is None:
        check_knobs(space.names)
        try:
            plan_training(with_alpha(config.standard or {}), config.training, n_examples or 1)
        except ConfigError as error:  # here, and not when the search is over
            raise ConfigError(f"standard: {error}") from None
    for seed_config in config.search.seed_configs or []:
        space.nearest(seed_config)
    return space


def prepare_search(config: RunConfig, sizes: Sizes | None, listen: Listener) -> Search:
    """Builds the search half: space, preset, and language features of all candidates.

    Raises:
        LoracleError: see `search_space`, `get_preset`, `load_language_model` and `build_features`.
    """
    n_examples = None if sizes is None else sizes.proxy
    space = search_space(config, n_examples)
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    preset = with_standard(preset, config.standard)
    if config.search.seed_configs is not None:
        preset = replace(preset, seed_configs=tuple(config.search.seed_configs))
    surrogate = preset.surrogate
    if isinstance(surrogate, EnsembleSettings) or not surrogate.language:
        return Search(space, preset, None, config.search.seed, contents=_prior(preset))
    return _with_features(config, space, preset, surrogate, n_examples, listen)


def _with_features(
    config: RunConfig,
    space: SearchSpace,
    preset: Preset,
    surrogate: SurrogateSettings,
    n_examples: int | None,
    listen: Listener,
) -> Search:
    """The search half where a language model reads the candidates."""
    from loracle.config.device import pick_device
    from loracle.language.causal_reader import CausalReader
    from loracle.language.features import build_features
    from loracle.language.reader import load_language_model

    settings = config.language
    model = load_language_model(
        settings,
        tuned=config.model or None,
        device=config.device,
        dtype=config.dtype if settings.model == "same" else settings.dtype,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none` here
    # An encoder reads every observed text again in every step of a fit, so there it is opt-in.
    wanted = surrogate.learnable_token and isinstance(model, CausalReader)
    learnable = wanted if settings.learnable_token is None else settings.learnable_token
    prompt = run_prompt(config, space, model, n_examples)
    listen(PhaseStarted(f"reading {len(space.candidates):,} prompts ({prompt.version}, {model.name})"))
    features = build_features(
        space,
        prompt,
        model,
        learnable_token=learnable,
        cache_dir=cache_folder(),
        progress=lambda done, total: listen(Step(done, total)),
        memory_gb=settings.memory_gb,
        half_precision_cache=settings.half_precision_cache,
    )
    surrogate = replace(surrogate, learnable_token=learnable)
    contents = {
        "prompt": prompt.fingerprint,
        "model that reads the prompts": model.fingerprint,
        READING: f"{model.dtype} on {pick_device(config.device).type}".removeprefix("torch."),
    }
    preset = replace(preset, surrogate=surrogate)
    return Search(space, preset, features, config.search.seed, contents=contents)


def run_prompt(config: RunConfig, space: SearchSpace, model: LanguageModel, n_examples: int | None) -> Prompt:
    """How a run writes its configs. `auto`: with explanations for a causal model; short and derived for a
    sentence encoder, which averages over all words and reads every text by itself.

    Raises:
        PromptError: see `load_prompt`.
    """
    from loracle.language.causal_reader import CausalReader
    from loracle.language.prompt import load_prompt

    name = config.language.prompt
    if name == "auto":
        name = "lora-v1" if isinstance(model, CausalReader) else "derived-v1"
    return load_prompt(name, space, n_examples=n_examples, epochs=config.training.epochs)


# -- helpers ----------------------------------------------------------------------------------------


def _final_training(report: Report) -> str | None:
    if report.sizes is not None:
        return f" on all {report.sizes.train:,} examples"
    return "" if report.has_final else None


def _prior(preset: Preset) -> dict[str, str]:
    """What the search has learnt from, as part of what a run is made of."""
    surrogate = preset.surrogate
    if isinstance(surrogate, EnsembleSettings) and surrogate.informed > 0:
        return {"prior": file_hash(surrogate.prior or SHIPPED)}
    return {}
