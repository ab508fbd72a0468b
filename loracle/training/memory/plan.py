"""Planning with memory: which micro-batch fits, which candidates cannot; corrected by what trainings took.

The equations are in `equations.py`. What a training took at its peak stands in the metrics of its outcome, so
every part of a run that knows the outcomes corrects them alike.

The search half needs two functions: `allowed(model, space, history)` says which candidates can fit at all,
for `propose(allowed=...)`; `describe(model, space, standard, history)` says it to people. `model` is
`TrainingObjective.memory`. Both apply the correction, so there is nothing to keep up to date.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.errors import ConfigError
from loracle.records.space import SearchSpace, Value, number
from loracle.records.trial import FailureKind, History, Outcome
from loracle.text.quantities import show_bytes
from loracle.training.dataset.tokens import Encoded
from loracle.training.memory.equations import Footprint, Logits, Sizes, scoring_growth, training_growth

Floats = npt.NDArray[np.float64]

_FACTORS = (0.2, 4.0)  # a correction beyond these is an accident of measuring
# Tokens in a micro-batch from where on a training does not become faster. On a CPU it becomes slower again:
# measured on one core (`benchmarks/micro_batch.py`), widths 32 to 256 with 20 to 300 tokens an example are
# fastest with 300 to 2,500 tokens at once, and 1,024 cost at most a quarter more than the best; one example
# at a time costs up to 18 times as much, 64 up to twice. GPUs were not measured. The number for CUDA is a
# bound from data sheets: an H100 does 295 operations a byte, so a matrix product is bound by arithmetic from
# some 300 tokens on; about 50 kernels a layer, 5 us each, are hidden from 800 tokens on in a model of 1 B
# parameters and from 10,000 on in one of 0.1 B.
_FAST_TOKENS = {"cpu": 1024, "cuda": 16_384}
_FAST_TOKENS_ELSEWHERE = 4096  # smaller devices, which do not tell what memory they have
_LARGEST_BATCH = 65_536  # examples at a time, whose counted positions are kept for another process
_NOTHING = History()
_REMEDY = "lower data.max_length, set training.gradient_checkpointing, or choose a smaller model"


Names = tuple[tuple[str, str], ...]  # knob and name


@dataclass(frozen=True)
class Observation:
    """What became of a prediction: bytes of growth, predicted without any correction, and `observed`.

    `observed` is None where memory ran out.
    """

    predicted: float
    observed: float | None


@dataclass(frozen=True)
class MemoryModel:
    """Predicts peaks, and plans with them.

    Attributes:
        footprint: of the base model.
        sizes: of the examples of a trial.
        loaded: bytes that are there before a training: the base model, and on the CPU the whole process.
        room: bytes by which a training may grow; None where the device does not tell.
        largest: micro-batch where memory allows it: the user's, or None for what is fast.
        device: its kind, such as `cuda`, which decides what is fast.
        processes: that share an effective batch; all that is said of memory is of one of them.
        observations: of trainings.
        footprints: by names of knobs, where these decide it; `footprint` is then that of the first.
    """

    footprint: Footprint
    sizes: Sizes
    loaded: int
    room: float | None
    largest: int | None
    device: str = "cpu"
    processes: int = 1
    observations: tuple[Observation, ...] = ()
    footprints: tuple[tuple[Names, Footprint], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data, exact to the last digit; `from_json` gives the same model, in another process too."""
        plain = asdict(self)
        for footprint in (plain["footprint"], *(footprint for _, footprint in plain["footprints"])):
            footprint["saved"] = footprint["saved"].tolist()
        plain["sizes"]["counted"] = self.sizes.counted[:_LARGEST_BATCH].tolist()
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MemoryModel:
        """Reads what `as_json` wrote. Raises TypeError or KeyError where it is something else."""
        footprints = tuple(
            (tuple((knob, name) for knob, name in names), _footprint(one))
            for names, one in content.get("footprints", ())
        )
        sizes = {**content["sizes"], "counted": np.array(content["sizes"]["counted"], dtype=np.int64)}
        observations = tuple(Observation(**one) for one in content["observations"])
        parts = {"footprint": _footprint(content["footprint"]), "footprints": footprints}
        return cls(**{**content, **parts, "sizes": Sizes(**sizes), "observations": observations})

    def learn(self, observations: Iterable[Observation]) -> MemoryModel:
        """The model with more observations; their order does not matter."""
        return replace(self, observations=(*self.observations, *observations))

    def on(self, encoded: Encoded) -> MemoryModel:
        """The model for other examples."""
        return replace(self, sizes=Sizes.of(encoded))

    def predict(self, config: Mapping[str, Value], micro_batch: int) -> float:
        """Bytes of growth as the equations have it, without correction."""
        rank, dropout = number(config["rank"]), number(config.get("dropout", 0.0))
        return float(training_growth(self.footprint_of(config), self.sizes, rank, micro_batch, dropout))

    def footprint_of(self, config: Mapping[str, Value]) -> Footprint:
        """Of the adapters that a config's names ask for."""
        for names, footprint in self.footprints:
            if all(config.get(knob) == name for knob, name in names):
                return footprint
        return self.footprint

    def micro_batch(self, config: Mapping[str, Value]) -> int:
        """The largest micro-batch that fits, or 1: `largest`, the batch, or a power of two below."""
        return self.micro_batch_of_all([config]) or 1

    def micro_batch_of_all(self, configs: Sequence[Mapping[str, Value]]) -> int | None:
        """The largest micro-batch of each of several that train together; None: they do not fit together.

        Together they take what each of them takes, at most; and all together are cut into parts of a size
        that is fast.
        """
        smallest = min(int(config["batch_size"]) for config in configs)
        largest = self.wanted(smallest)
        if self.largest is None:
            largest = min(largest, max(1, fast_micro_batch(self.device, self.sizes) // len(configs)))
        tried = halvings(largest)
        grows = np.sum([self._growth_of(config, np.array(tried)) for config in configs], axis=0)
        return next((m for m, growth in zip(tried, grows, strict=True) if self._fits(growth)), None)

    def peak(self, config: Mapping[str, Value]) -> float:
        """Bytes at the peak of a config's training with the micro-batch chosen for it."""
        m = self.micro_batch(config)
        return self.loaded + float(self._growth_of(config, m))

    def fits(self, space: SearchSpace) -> npt.NDArray[np.bool_]:
        """Which candidates can fit, if only one example at a time, (N,)."""
        # Without `loaded`, which differs between sessions: adding and subtracting it rounds.
        return np.asarray(self._fits(self._growths(space, 1)), dtype=bool)

    def peaks(self, space: SearchSpace, micro_batch: int) -> Floats:
        """Bytes at the peak of each candidate, (N,), with this micro-batch or, where smaller, its batch."""
        return self.loaded + self._growths(space, micro_batch)

    def _growths(self, space: SearchSpace, micro_batch: int) -> Floats:
        values = space.values(space.candidates)
        rank, batch = values["rank"], values["batch_size"].astype(np.int64)
        m, dropout = np.minimum(micro_batch, batch), values.get("dropout", np.zeros_like(rank))
        growths = self.growth(rank, m, dropout)
        for names, footprint in self.footprints:
            own = np.ones(len(rank), dtype=bool)
            for knob, name in names:
                texts = space[knob].texts
                own &= values[knob] == texts.index(name) if name in texts else False
            growths[own] = self.growth(rank[own], m[own], dropout[own], footprint)
        return growths

    def _growth_of(self, config: Mapping[str, Value], micro_batch: npt.ArrayLike) -> Floats:
        rank, dropout = number(config["rank"]), number(config.get("dropout", 0.0))
        return self.growth(rank, micro_batch, dropout, self.footprint_of(config))

    @property
    def limit(self) -> float | None:
        """The largest peak that fits, in bytes; None where it is not known."""
        return None if self.room is None else self.loaded + self.room

    def wanted(self, batch_size: int) -> int:
        """The micro-batch where memory does not matter: the user's, or parts of a size that is fast."""
        batch_size = math.ceil(batch_size / self.processes)
        if self.largest is not None:
            return min(self.largest, batch_size)
        most = fast_micro_batch(self.device, self.sizes)
        return math.ceil(batch_size / math.ceil(batch_size / most))  # parts of like size

    def scoring_batch(
        self,
        encoded: Encoded,
        config: Mapping[str, Value],
        largest: int,
        *,
        written: int,
        continued: bool = False,
    ) -> int:
        """How many of these examples to score at a time: `largest`, or a power of two below.

        `written` is the number of tokens that the model writes for each; `continued` says that each goes on
        from the keys and values of its prompt.
        """
        sizes, rank = Sizes.of(encoded), int(config["rank"])
        growth = (
            scoring_growth(self.footprint_of(config), sizes, rank, b, written, continued)
            for b in halvings(largest)
        )
        tried = zip(halvings(largest), growth, strict=True)
        return next((batch for batch, needed in tried if self._fits(needed)), 1)

    def growth(
        self,
        rank: npt.ArrayLike,
        micro_batch: npt.ArrayLike,
        dropout: npt.ArrayLike,
        footprint: Footprint | None = None,
    ) -> Floats:
        """Corrected bytes of growth at the peak of trainings; the arguments are broadcast together.

        The equations times the median ratio of observed to predicted; never below what as much has taken
        before. Where memory ran out, the ratio is at least room / predicted, and as much does not fit.
        """
        predicted = training_growth(footprint or self.footprint, self.sizes, rank, micro_batch, dropout)
        bounds = [(o.predicted, o.observed) for o in self.observations if o.observed is not None]
        ratios = [observed / expected for expected, observed in bounds]
        for o in self.observations:
            if o.observed is None and self.room is not None:
                bounds.append((o.predicted, np.nextafter(self.room, np.inf)))
                if not ratios or self.room / o.predicted > median(ratios):
                    ratios.append(self.room / o.predicted)
        growth = predicted * float(np.clip(median(ratios), *_FACTORS)) if ratios else predicted
        for expected, bound in bounds:
            growth = np.where(predicted >= expected, np.maximum(growth, bound), growth)
        return growth

    def _fits(self, growth: npt.ArrayLike) -> Any:
        return np.asarray(growth) <= (np.inf if self.room is None else self.room)


def _footprint(content: Mapping[str, Any]) -> Footprint:
    logits = {**content["logits"], "words": tuple(content["logits"]["words"])}
    return Footprint(**{**content, "saved": np.array(content["saved"]), "logits": Logits(**logits)})


def fast_micro_batch(device: str, sizes: Sizes) -> int:
    """The micro-batch, in examples of typical length, beyond which a training does not become faster."""
    tokens = _FAST_TOKENS.get(device, _FAST_TOKENS_ELSEWHERE)
    return max(1, int(tokens / max(1.0, sizes.typical)))


def halvings(largest: int) -> list[int]:
    """`largest` and the powers of two below it, descending."""
    powers = (1 << exponent for exponent in reversed(range(largest.bit_length())))
    return [largest, *(size for size in powers if size < largest)]


# -- for the search half, and for people --------------------------------------------------------------


def observed(outcomes: Iterable[Outcome]) -> list[Observation]:
    """What the trainings behind these outcomes took; the objective leaves it in their metrics."""
    found = []
    for metrics in (outcome.metrics for outcome in outcomes):
        if "memory_growth_bytes" in metrics:
            growth = metrics["memory_growth_bytes"]
            found.append(Observation(metrics["predicted_growth_bytes"], growth))
        if "exceeded_growth_bytes" in metrics:
            found.append(Observation(metrics["exceeded_growth_bytes"], None))
    return found


def learnt(model: MemoryModel, history: History) -> MemoryModel:
    """The model, corrected by all trials."""
    return model.learn(observed(trial.outcome for trial in history.finished if trial.outcome))


def allowed(model: MemoryModel, space: SearchSpace, history: History = _NOTHING) -> npt.NDArray[np.bool_]:
    """Which candidates can fit into memory as far as is known, (N,), for `propose(allowed=...)`.

    Decided by the equations, the room, and trials that failed even with one example at a time. What others
    took does not count: it depends on the micro-batch and on the machine's other work; proposals must not.

    Raises:
        ConfigError: none does, and none has been trained.
    """
    fits = _after_failures(model, history).fits(space)
    if not fits.any() and not history.succeeded:
        raise ConfigError(f"no candidate fits into memory: {_left_out(model, space, fits)}; {_REMEDY}")
    return fits


def _after_failures(model: MemoryModel, history: History) -> MemoryModel:
    outcomes = [trial.outcome for trial in history.finished if trial.outcome is not None]
    kind = FailureKind.OUT_OF_MEMORY
    return model.learn(observed(o for o in outcomes if o.failure is not None and o.failure.kind is kind))


def describe(
    model: MemoryModel, space: SearchSpace, standard: Mapping[str, Value] | None, history: History = _NOTHING
) -> list[str]:
    """What to say about memory in up to three lines: peaks, what is left out and why, observed peaks."""
    now = learnt(model, history)
    peaks_at_most = now.peaks(space, now.wanted(int(space["batch_size"].values[-1])))
    configs: dict[str, Mapping[str, Value]] = {
        "smallest config": space.config(int(space.candidates[int(np.argmin(peaks_at_most))])),
        **({"standard": standard} if standard else {}),
        "largest": space.config(int(space.candidates[int(np.argmax(peaks_at_most))])),
    }
    peaks = [f"{show_bytes(now.peak(config))} ({name})" for name, config in configs.items()]
    micro = [now.micro_batch(config) for config in configs.values()]
    batches = str(micro[0]) if len(set(micro)) == 1 else _and([str(m) for m in micro])
    there = "" if now.limit is None else f" of {show_bytes(now.limit)} to use"
    lines = [f"predicted peaks {_and(peaks)}{there}; micro-batches of {batches}"]
    known = _after_failures(model, history)
    fits = known.fits(space)
    if not fits.all():
        lines.append(_left_out(known, space, fits))
    measured = [o.observed / o.predicted for o in now.observations if o.observed is not None]
    if measured:
        most = max(o.observed for o in now.observations if o.observed is not None) + now.loaded
        lines.append(
            f"observed peaks up to {show_bytes(most)}; trainings grew {median(measured):.2f} times as much "
            "as the equations say (median)"
        )
    return lines


def left_out(model: MemoryModel, space: SearchSpace) -> tuple[int, str] | None:
    """How many candidates are left out from the start, and a sentence that says so and why; None: none."""
    known = _after_failures(model, _NOTHING)
    fits = known.fits(space)
    return None if fits.all() else (int((~fits).sum()), _left_out(known, space, fits))


def _left_out(model: MemoryModel, space: SearchSpace, fits: npt.NDArray[np.bool_]) -> str:
    least = np.where(fits, np.inf, model.peaks(space, 1))
    row = int(np.argmin(least))
    config = space.config(int(space.candidates[row]))
    knobs = [knob for knob, _ in model.footprints[0][0]] if model.footprints else []
    names = [f" with {knob} {config[knob]}" for knob in knobs]
    return (
        f"{int((~fits).sum()):,} of {len(fits):,} candidates are left out: rank {config['rank']:g}"
        f"{' and'.join(names)} and above "
        f"need {show_bytes(least[row])} and more, with 1 x {model.sizes.longest:,} tokens at a time"
    )


def _and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
