"""From a config to an outcome: what the search maximises.

An objective runs one trial. Its value depends on the config, the seed, the data and the model alone, so a
resumed search sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from loracle.config.knobs import check_knobs, without_adapter
from loracle.config.metrics import Item, Needs, metric_of
from loracle.config.metrics.guard import GuardConfig, guards_of_rows
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig, build_space
from loracle.config.training.plan import plan_training
from loracle.errors import ModelError
from loracle.records.notices import Notice, gathered
from loracle.records.objective import Asked, Pace, Progress, Report
from loracle.records.sizes import Sizes
from loracle.records.space import Config, with_alpha
from loracle.records.standard_settings import STANDARD
from loracle.records.trial import Outcome
from loracle.records.trial_files import stored_outcomes
from loracle.training.contents import contents_of, provenance
from loracle.training.dataset.blocks import rows_of
from loracle.training.dataset.notices import require_enough
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import Splits, load_splits, overlap_of, proxy_positions, proxy_size
from loracle.training.dataset.tokens import Encoded
from loracle.training.dataset.told import about_data
from loracle.training.dataset.trial_size import expected_tokens, trial_cost, trial_size
from loracle.training.guard import Guard, load_guards
from loracle.training.judging.judge import forget_judges
from loracle.training.memory.counting import build_memory_model
from loracle.training.memory.kinds import check_kinds, try_kinds
from loracle.training.memory.plan import MemoryModel, Observation, observed
from loracle.training.model.base_model import Base
from loracle.training.model.dropout import about_own_dropout
from loracle.training.pace import Sample, measure_pace
from loracle.training.packed.trials import Member, about_apart, run_together, width_told
from loracle.training.parallel.group import ALONE, Group
from loracle.training.parallel.peers import Peers, load_alone
from loracle.training.schedule import example_order
from loracle.training.scoring import Questions, check_splits, needs_of, prepare, score
from loracle.training.trial import TrialPlan, Watch, run_trial
from loracle.training.validation_loss import Watched, watched_for_curve


class TrainingObjective:
    """Trains an adapter on the proxy and scores it on validation examples.

    Attributes:
        base: the base model, the same object in every trial.
        splits: all examples.
        n_train: training examples that are short enough.
        n_proxy: how many of them a trial trains on.
        dropped: examples left out for their length, by split.
        sizes: all of these numbers, for people.
        questions: what trainings are scored on, by split.
        contents: what trainings are made of.
        adapted: names of the modules and weights that have an adapter.
        guards: what must not be lost.
        notices: what the user must see about data and model.
    """

    def __init__(self, config: RunConfig, splits: Splits, base: Base, group: Group = ALONE) -> None:
        self.config = config
        self._group = group
        self.base, self.splits = base, splits
        check_kinds(base, config)  # before anything takes long
        self._needs = needs_of(config.scoring)
        needs = self._needs.union(*map(needs_of, guards_of_rows(config.guard).values()))
        encoded = {name: self._encode(name, part) for name, part in splits.parts.items()}
        self._train = encoded["train"]
        self.n_train = len(self._train)
        self.dropped = {name: part.dropped for name, part in encoded.items()}
        n_validation = len(validation := encoded["validation"])
        guards = self.guards = load_guards(config, base.texts, splits.train)
        self.contents = contents_of(splits, base, config.scoring, guards)
        tokens = expected_tokens(config, self._train, validation, splits.validation, guards, len(self._whole))
        size = trial_size(config.data, tokens)
        self.n_proxy = size.trained
        if size.scored < n_validation:
            some = proxy_positions(n_validation, size.scored / n_validation, 1, config.search.seed)
            validation = validation.select(some)
            require_enough("validation", size.scored, f"data.validation_limit is {size.scored}")
        rows = (len(self._whole), len(self._part))
        cost, costs = trial_cost(config, tokens, size, rows)
        self._size = replace(size, expected=cost.likely)
        sizes = (self.n_train, self.n_proxy, n_validation, len(validation), len(encoded["test"]))
        self.sizes = Sizes(
            *sizes,
            dropped=self.dropped,
            overlap=overlap_of(splits, *(p.positions for p in (self._train, validation, encoded["test"]))),
            trial_cost=size.cost,
            expected=cost.likely,
            expected_ends=(cost.low, cost.high),
            costs=costs,
            blocks=rows if config.data.packing else None,
            chats=splits.train[0].is_whole_chat,
        )
        self.questions = {
            "validation": self._prepare(splits.validation, validation),
            "test": self._prepare(splits.test, encoded["test"]),
        }
        self._chosen_by = self._all_validation(encoded["validation"])
        self._observed: list[Observation] = []
        self._kinds = try_kinds(
            base,
            config,
            self._train.tokens,
            writes="writing" in needs,
            chooses="choices" in needs,
        )
        self.base, self.adapted = self._kinds.base, self._kinds.adapted
        self.notices: tuple[Notice, ...] = gathered(
            splits.notices,
            self._about_data(encoded),
            (notice for guard in self.guards for notice in guard.told()),
            about_own_dropout(base.model),
            self._kinds.notices,
        )

    @classmethod
    def from_config(cls, config: RunConfig, tokenizer: Any = None, *, with_peers: bool = False) -> Self:
        """Loads and checks the data first, then the model, and tries the adapters on it.

        `tokenizer`: the config's, where it is loaded already. `with_peers`: where the config asks for several
        processes a trial, the others are started, and end this one when one of them ends. Without them this
        process trains the same trials alone; where they share one model they are there in any case.

        Raises:
            DataError, ConfigError, ModelError: one line each; see `load_splits`, `check_splits`,
                `load_base`, `encode`, `prepare` and `probe`.
        """
        forget_judges()  # those of a run before may have read other files
        with_peers = (with_peers or config.execution.shard_model) and config.processes > 1
        peers = Peers(config) if with_peers else None  # they load meanwhile
        splits = load_splits(config.data, config.search.seed)
        check_splits(splits.parts, config.scoring)
        load = load_alone if peers is None else peers.load_base
        base, group = load(config, tokenizer)
        return cls(config, splits, base, group)

    def close(self) -> None:
        """Ends the other processes, where there are some."""
        self._group.close()

    def report(self) -> Report:
        """Hashes of data and model, what the user must see, counts, and the memory of this machine."""
        idle = tuple(self.about_guards())  # before the first trial; workers that come later find the items
        together, width = self._together()
        return Report(
            contents=self.contents.hashes(),
            fingerprint=self.contents.fingerprint,
            notices=gathered(self.notices, idle, width),
            sizes=self.sizes,
            memory=self.memory.as_json(),
            pace=self.pace(),
            parameters=self.base.model.num_parameters(),
            together=together,
        )

    def about_guards(self, *, keep: bool = True) -> Iterator[Notice]:
        """What the base model's own scores say of the guards. `keep`: whether the run folder keeps them."""
        for guard in self.guards:
            found = [self._base_items(guard, split, keep=keep) for split in guard.questions]
            yield from next(filter(None, (tuple(guard.about_base(items)) for items in found)), ())

    def pace(self) -> Pace | None:
        """How fast trials go, measured; None where trials of this run tell it, or it cannot be measured."""
        standard = self.config.standard
        if standard is None or stored_outcomes(self.config.output / "trials"):
            return None
        config, questions, memory = with_alpha(standard), self.questions["validation"], self.memory
        micro_batch = memory.micro_batch(config)
        sample = Sample(
            base=self.base,
            config=without_adapter(config),
            training=self._kinds.settings(config).model_copy(update={"micro_batch": micro_batch}),
            scoring=self.config.scoring.model_copy(
                update={"batch_size": self._scoring_batch(memory, questions, config)}
            ),
            train=self._part,
            questions=questions,
            group=self._group,
        )
        return measure_pace(sample)

    def run(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        progress: Progress | None = None,
        fraction: float | None = None,
    ) -> Outcome:
        """Trains on the proxy, or on exactly `fraction` of the training data, and scores on validation.

        Writes `items.jsonl`, `log.txt` and `provenance.json` into `folder`.

        Raises:
            LoracleError: a config that no training understands, or a damaged base model.
        """
        return self._run(self._plan(config, seed, folder, "validation", self._proxy(fraction), progress))

    def run_together(self, asked: Sequence[Asked], together: Sequence[Config]) -> list[Outcome]:
        """Trains those that are `asked` for in one forward pass over the model with the rest of `together`,
        as far as they can be; else as `run`, which trains the same but for rounding.

        Writes and raises as `run`.
        """
        members: list[Member] = []
        for config in together:
            one = next((one for one in asked if one.config == config), None)
            given = one or asked[0]  # whose folder is not touched
            plan = self._plan(config, given.seed, given.folder, "validation", self._proxy(), given.progress)
            members.append(Member(plan, self._provenance(plan), wanted=one is not None))
        found = run_together(members)
        outcomes = [found[together.index(one.config)] for one in asked]
        self._observed += observed(outcomes)
        return outcomes

    def final(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Trains on all training data, scores on the test split, and saves adapter and tokenizer.

        The metrics hold `test_value` with its 95 % interval, `low` and `high`, and where the best of several
        final trainings is to be chosen, `validation_value`. Writes and raises as `run`.
        """
        chosen = np.arange(self.n_train, dtype=np.int64)
        return self._run(self._plan(config, seed, folder, "test", chosen, progress, adapter))

    def size_at(self, fraction: float) -> int:
        """Training examples in exactly this fraction."""
        return proxy_size(self.n_train, fraction, 1)

    @cached_property
    def memory(self) -> MemoryModel:
        """How much memory a trial takes, and how much there is; made when it is first asked for.

        Raises:
            ModelError: there is no memory for training on one short example.
        """
        # What the trials of this run have shown so far, so that a worker that was replaced goes on alike.
        self._observed += observed(stored_outcomes(self.config.output / "trials"))
        kinds = tuple(self._kinds.for_memory(self.config))
        return build_memory_model(
            self.base,
            kinds[0][1],
            self._part,
            workers=max(1, self.config.execution.workers),
            processes=self.config.processes,
            kinds=kinds,
        )

    def _proxy(self, fraction: float | None = None) -> npt.NDArray[np.int64]:
        """Which training examples a trial has, or exactly `fraction` of all."""
        share = self.n_proxy / self.n_train if fraction is None else fraction
        return proxy_positions(self.n_train, share, 1, self.config.search.seed)

    @cached_property
    def _whole(self) -> Encoded:
        """What a training on all data trains on: examples, or blocks of them."""
        return self._rows(self._train)

    @cached_property
    def _part(self) -> Encoded:
        """The same of a trial."""
        return self._rows(self._train.select(self._proxy()))

    def _rows(self, examples: Encoded) -> Encoded:
        """What batches are made of: the examples or, with `data.packing`, blocks of them."""
        return rows_of(examples, self.config.data, self.base.texts.longest(self.config.data))

    def _together(self) -> tuple[int | None, tuple[Notice, ...]]:
        """How many configs to train at once, if that is to be measured; and what is to say of it."""
        wanted, search = self.config.execution.trials_together, self.config.search
        if wanted == 1:
            return None, ()
        begun = bool(stored_outcomes(self.config.output / "trials"))
        config = with_alpha(self.config.standard or STANDARD)
        plan = self._plan(config, search.seed, Path(), "validation", self._proxy(), None)
        space = build_space(self.config.space)
        knobs = {knob.name: knob.values for knob in space}
        return width_told(wanted, plan, search.trials, begun=begun, knobs=knobs)

    def about_together(self) -> tuple[Notice, ...]:
        """What is to say of trials that train together, where that needs no measurement."""
        if self.config.execution.trials_together == "auto":
            return tuple(about_apart({knob.name: knob.values for knob in build_space(self.config.space)}))
        return self._together()[1]

    def _run(self, plan: TrialPlan) -> Outcome:
        outcome = run_trial(plan, self._provenance(plan))
        self._observed += observed([outcome])
        return outcome

    def _plan(
        self,
        config: Config,
        seed: int,
        folder: Path,
        split: Literal["validation", "test"],
        chosen: npt.NDArray[np.int64],
        progress: Progress | None,
        adapter: Path | None = None,
    ) -> TrialPlan:
        check_knobs(list(config))
        questions, train = self.questions[split], self._rows(self._train.select(chosen))
        memory = self.memory.on(train).learn(self._observed)
        scoring_batch = self._scoring_batch(memory, questions, config)
        micro_batch = min(memory.micro_batch(config), len(train))
        return TrialPlan(
            base=self.base,
            training=self._kinds.settings(config),
            scoring=self.config.scoring.model_copy(update={"batch_size": scoring_batch}),
            config=config,
            seed=seed,
            folder=folder,
            split=split,
            train=train,
            questions=questions,
            chosen_by=self._chosen_by if split == "test" else None,
            memory=memory,
            micro_batch=micro_batch,
            share=len(chosen) / self.n_train,
            watched=self._watched(memory, config, train, micro_batch),
            progress=progress,
            adapter=adapter,
            group=self._group,
            guards=tuple(
                Watch(guard, guard.questions[split], self._guard_scoring(guard, split, config), items)
                for guard in self.guards
                for items in [self._base_items(guard, split)]
            ),
            full_tokens=self._full_tokens,
            n_split=self.sizes.validation if split == "validation" else self.sizes.test,
        )

    @cached_property
    def _full_tokens(self) -> int:
        """Tokens that one training on all data with the standard settings trains on."""
        standard = with_alpha(self.config.standard or STANDARD)
        plan = plan_training(standard, self.config.training, len(self._whole))
        order = example_order(plan.n_examples, plan.n_seen, self.config.search.seed)
        return int(self._whole.lengths[order].sum())

    def _watched(
        self, memory: MemoryModel, config: Config, train: Encoded, micro_batch: int
    ) -> Watched | None:
        """Validation examples that early stopping goes by, or some of them for the learning curve, in final
        trainings too: the test split says what came of a training, and nothing before that."""
        encoded = self.questions["validation"].encoded
        batch_size = memory.scoring_batch(encoded, config, self.config.scoring.batch_size, written=0)
        own, settings = without_adapter(config), self._kinds.settings(config)
        plan = plan_training(own, settings, len(train), train.n_examples / self.n_train)
        if plan.settings.early_stopping is None:
            return watched_for_curve(encoded, train, plan, min(batch_size, micro_batch))
        return Watched(encoded, batch_size)

    def _base_items(self, guard: Guard, split: str, *, keep: bool = True) -> Sequence[Item]:
        """What the base model gives; measured once a run, and by every worker that does not find it."""
        settings = self._guard_scoring(guard, split, with_alpha(self.config.standard or STANDARD))

        def ask(questions: Questions, asked: GuardConfig) -> Sequence[Item]:
            return score(self.base, questions, settings, split).items

        return guard.base_items(split, self.base.fingerprint, ask, keep=keep)

    def _guard_scoring(self, guard: Guard, split: str, config: Config) -> ScoringConfig:
        """The settings by which it is scored, in batches that fit."""
        questions, needs = guard.questions[split], needs_of(guard.settings)
        batch = self._largest_batch(self.memory, questions, config, guard.settings, needs)
        return guard.settings.model_copy(update={"batch_size": batch})

    def _scoring_batch(self, memory: MemoryModel, questions: Questions, config: Config) -> int:
        """How many examples are scored at a time, in whatever way the metrics need."""
        return self._largest_batch(memory, questions, config, self.config.scoring, self._needs)

    def _largest_batch(
        self,
        memory: MemoryModel,
        questions: Questions,
        config: Config,
        scoring: ScoringConfig,
        needs: set[Needs],
    ) -> int:
        largest = scoring.batch_size
        written = scoring.max_new_tokens if "writing" in needs else 0
        if questions.choices is not None:
            continued = self.base.continuing is not None
            largest = memory.scoring_batch(questions.choices, config, largest, written=0, continued=continued)
            if "writing" not in needs:
                return largest
        return memory.scoring_batch(questions.encoded, config, largest, written=written)

    def _encode(self, name: str, examples: Sequence[Example]) -> Encoded:
        encoded = self.base.texts.encoded(name, examples, self.config.data)
        vocabulary = self.base.model.get_input_embeddings().num_embeddings
        if int(encoded.tokens.max()) >= vocabulary:
            raise ModelError(
                f"model: the tokenizer of {self.base.name} makes token {int(encoded.tokens.max())}, but the "
                f"model knows {vocabulary}; they do not belong together"
            )
        return encoded

    def _about_data(self, encoded: Mapping[str, Encoded]) -> Iterator[Notice]:
        return about_data(
            self.splits.parts,
            encoded,
            self._size,
            metric_of(self.config.scoring.metric),
            max_length=self.base.texts.longest(self.config.data),
            remedy=self.base.texts.remedy(self.config.data),
            writes="writing" in self._needs,
            rows=(self._whole, self._part),
        )

    def _provenance(self, plan: TrialPlan) -> dict[str, Any]:
        data = {"fingerprint": self.splits.fingerprint, "dropped": self.dropped}
        return provenance(plan, self.config, data)

    def _all_validation(self, encoded: Encoded) -> Questions | None:
        """What tells which of several final trainings is best; None where there is one."""
        if self.config.search.finalists < 2 or self.config.objectives:
            return None
        if len(encoded) == self.sizes.scored:
            return self.questions["validation"]
        return self._prepare(self.splits.validation, encoded)

    def _prepare(self, examples: Sequence[Example], encoded: Encoded) -> Questions:
        longest = self.base.texts.longest(self.config.data)
        return prepare(examples, encoded, self.base, self.config.scoring, longest)
