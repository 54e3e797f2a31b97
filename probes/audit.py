"""The pair audit: how well do things that have nothing to do with meaning tell the two sides apart?

A probe that separates two sets of texts has shown nothing while their length, their "you"s or a list of words separates
them too. The audit measures that on anybody's pairs, with the scenario as the unit, and names what to rewrite.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from activations.pairs import ContrastPair, PairSet
from probes.evaluate import auroc, cross_scores
from probes.features import feature_table, has_stock_phrase, measure, words
from probes.sides import POOLED, balanced_folds
from probes.surface import WORD, bayes_baseline, letters_baseline, tfidf_baseline

SHOWN = 12  # worst pairs, terms and frames listed
FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditLimits:
    """What the audit lets pass. Areas are max(A, 1 − A): a feature that points the wrong way separates just as well."""

    feature: float = 0.60
    feature_domain: float = 0.65
    tfidf: float = 0.75  # readers of all the words: TF-IDF, and naive Bayes
    duplicate: float = 0.5  # Jaccard of word 5-grams between two scenarios
    frame: int = 3  # scenarios that may share a sentence frame
    judged_from: int = 30  # scenarios below which an area is printed but not judged: its own error is ±.15
    stock_share: float = 0.2  # share of a domain's scenarios that may use set phrases of sympathy


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """One feature's separation of the sides in one slice: grouped AUROC, positive over negative."""

    block: str
    domain: str
    feature: str
    n_scenarios: int
    area: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSummary:
    """A feature in one block at a glance: its pooled area, and the domain whose area is furthest from ½."""

    block: str
    feature: str
    pooled: float | None
    domain: str
    furthest: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the audit found. `failures` is empty where every limit holds."""

    pairs: str
    pairs_hash: str
    rows: list[AuditRow]
    terms: dict[str, list[tuple[str, float]]]
    duplicates: list[tuple[str, str, float]]
    frames: list[tuple[str, list[str]]]
    worst: dict[str, list[tuple[str, float]]]
    limits: AuditLimits
    failures: list[str] = field(default_factory=list)

    def about(self) -> dict[str, Any]:
        """Everything, as JSON-serialisable values (the schema is in docs/pairs.md)."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Block:
    """Pairs that answer one question: one contrast, design, role and language. One entry a unit in each list."""

    name: str
    units: list[str]
    domains: list[str]
    positive: list[list[str]]
    negative: list[list[str]]
    pairs: list[list[str]]

    def slices(self) -> dict[str, list[int]]:
        """The rows of "pooled", and of each domain where there are several."""
        found = {POOLED: list(range(len(self.units)))}
        names = dict.fromkeys(self.domains)
        if len(names) > 1:
            found |= {name: [i for i, d in enumerate(self.domains) if d == name] for name in names}
        return found

    def keep(self, chosen: Iterable[int]) -> "Block":
        """Some units only."""
        rows = list(chosen)
        return Block(
            name=self.name,
            **{n: [getattr(self, n)[i] for i in rows] for n in ("units", "domains", "positive", "negative", "pairs")},
        )


def blocks_of(pairs: PairSet) -> list[Block]:
    """The pair set in blocks; within one, a unit is a scenario with all its wordings.

    Instructions (role "system") are crossed with scenarios, and all that differs between their sides is the
    instruction: there a unit is the instruction, or held-out rows would hold texts that were trained on.
    """
    found: dict[str, dict[str, list[ContrastPair]]] = {}
    for pair in pairs.pairs:
        name = f"{pair.contrast}/{pair.design}/{pair.role}/{pair.language}"
        unit = pair.scenario_id if pair.role != "system" else f"{pair.positive}\n{pair.negative}"
        members = found.setdefault(name, {}).setdefault(unit, [])
        if pair.role != "system" or not members:
            members.append(pair)
    return [
        Block(
            name=name,
            units=list(units),
            domains=[members[0].domain for members in units.values()],
            positive=[[p.positive for p in members] for members in units.values()],
            negative=[[p.negative for p in members] for members in units.values()],
            pairs=[[p.pair_id for p in members] for members in units.values()],
        )
        for name, units in found.items()
    ]


def audit_pairs(pairs: PairSet, limits: AuditLimits, *, seed: int = 0) -> Audit:
    """Audit a pair set, block by block.

    Args:
        pairs: any pair set.
        limits: what passes.
        seed: of the folds TF-IDF is scored on.

    Returns:
        Areas per block, domain and feature, shared frames, near-duplicates, the worst pairs, and what is past a limit.
    """
    rows: list[AuditRow] = []
    failures: list[str] = []
    terms, worst = {}, {}
    for block in blocks_of(pairs):
        rows += _feature_rows(block)
        areas, scores = _tfidf_rows(block, seed)
        rows += areas
        if len(scores):
            terms[block.name] = _driving_terms(block)
            order = np.argsort(-scores)[:SHOWN]
            worst[block.name] = [("+".join(block.pairs[i]), float(scores[i])) for i in order]
        failures += _stock_failures(block, limits)
    duplicates, frames = near_duplicates(pairs, limits.duplicate), shared_frames(pairs, limits.frame)
    failures += _area_failures(rows, limits)
    failures += [f"{a} and {b} are near-duplicates: 5-gram Jaccard {j:.2f}" for a, b, j in duplicates]
    failures += [f'the frame "{text}" stands in {len(ids)} scenarios: {", ".join(ids[:4])} …' for text, ids in frames]
    return Audit(
        pairs=pairs.where,
        pairs_hash=pairs.hash,
        rows=rows,
        terms=terms,
        duplicates=duplicates,
        frames=frames,
        worst=worst,
        limits=limits,
        failures=failures,
    )


def summarise(rows: Iterable[AuditRow]) -> list[AuditSummary]:
    """One line a block and feature, in the order of the rows."""
    found: dict[tuple[str, str], list[AuditRow]] = {}
    for row in rows:
        found.setdefault((row.block, row.feature), []).append(row)
    lines = []
    for (block, feature), own in found.items():
        pooled = next((row.area for row in own if row.domain == POOLED), None)
        domains = [row for row in own if row.domain != POOLED]
        furthest = max(domains, key=lambda row: folded(row.area), default=None)
        lines.append(
            AuditSummary(
                block=block,
                feature=feature,
                pooled=pooled,
                domain=furthest.domain if furthest else "",
                furthest=furthest.area if furthest else None,
            )
        )
    return lines


def folded(area: float) -> float:
    """max(A, 1 − A)."""
    return max(area, 1.0 - area)


def near_duplicates(pairs: PairSet, limit: float) -> list[tuple[str, str, float]]:
    """Pairs of scenarios whose texts share word 5-grams with a Jaccard index of at least `limit`, worst first.

    Within a language, on the prompts alone and on prompts and answers together; the larger index counts.
    """
    texts: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    whole: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for pair in pairs.pairs:
        key = (pair.language, pair.scenario_id)
        if pair.role != "user":
            texts[key][pair.prompt] = None
        if pair.role != "system":  # crossed with every scenario on purpose
            whole[key] |= dict.fromkeys((pair.prompt, pair.positive, pair.negative))
    found: dict[tuple[str, str], float] = {}
    for collection in (texts, whole):
        for language in dict.fromkeys(key[0] for key in collection):
            ids = [key[1] for key in collection if key[0] == language]
            joined = ["\n".join(collection[language, i]) for i in ids]
            for a, b, index in _close(joined, limit):
                pair_of = (ids[a], ids[b])
                found[pair_of] = max(found.get(pair_of, 0.0), index)
    return sorted(((a, b, j) for (a, b), j in found.items()), key=lambda row: -row[2])


def shared_frames(pairs: PairSet, limit: int) -> list[tuple[str, list[str]]]:
    """Sentence frames that answers of more than `limit` scenarios share, most shared first.

    A frame is five words in a row within a sentence, or eight of which at most three are content words, those masked
    ("_"). English stop words are what is not masked, so in other languages only the five words count.
    """
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for pair in pairs.pairs:
        if pair.role == "system":
            continue
        for text in (pair.positive, pair.negative):
            for frame in _frames(text):
                found[pair.language, frame][pair.scenario_id] = None
    shared = [(frame, list(ids)) for (_, frame), ids in found.items() if len(ids) > limit]
    shared.sort(key=lambda row: (-len(row[1]), row[0]))
    kept: list[tuple[str, list[str]]] = []
    for frame, ids in shared:  # a longer run of words is five-grams that overlap; one of them says it
        if not any(set(ids) <= set(others) for _, others in kept):
            kept.append((frame, ids))
    return kept


def overlap(positive: str, negative: str) -> float:
    """Shared word occurrences as a share of the longer text's words: 1 for two orders of the same words."""
    a, b = Counter(words(positive)), Counter(words(negative))
    return (a & b).total() / max(a.total(), b.total(), 1)


def _frames(text: str) -> set[str]:
    frames: set[str] = set()
    for sentence in re.split(r"(?<=[.!?;:])\s", text):
        found = words(sentence)
        masked = [w if w in ENGLISH_STOP_WORDS or "'" in w else "_" for w in found]
        frames |= {" ".join(found[i : i + 5]) for i in range(len(found) - 4)}
        for i in range(len(masked) - 7):
            run = masked[i : i + 8]
            if run.count("_") <= 3:
                frames.add(" ".join(run))
    return frames


def _close(texts: Sequence[str], limit: float) -> list[tuple[int, int, float]]:
    counter = CountVectorizer(ngram_range=(5, 5), binary=True, token_pattern=WORD, dtype=np.int32)
    try:
        grams = counter.fit_transform(texts)
    except ValueError:  # no text has five words
        return []
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    shared = (grams @ grams.T).tocoo()
    found = []
    for a, b, both in zip(shared.row, shared.col, shared.data, strict=True):
        if a < b and both / (sizes[a] + sizes[b] - both) >= limit:
            found.append((int(a), int(b), float(both / (sizes[a] + sizes[b] - both))))
    return found


def _feature_rows(block: Block) -> list[AuditRow]:
    rows = []
    slices = block.slices()
    for name, feature in feature_table().items():
        positive, negative = measure(block.positive, feature), measure(block.negative, feature)
        rows += [
            AuditRow(
                block=block.name,
                domain=domain,
                feature=name,
                n_scenarios=len(members),
                area=auroc(positive[members], negative[members]),
            )
            for domain, members in slices.items()
        ]
    return rows


def _tfidf_rows(block: Block, seed: int) -> tuple[list[AuditRow], Float[np.ndarray, "unit"]]:
    """TF-IDF trained and scored within each domain, over the whole block, and on its scenarios without set phrases."""
    parts = [
        (f"tfidf{'' if domain == POOLED else ' (within the domain)'}", domain, block.keep(members))
        for domain, members in block.slices().items()
    ]
    free = [
        i
        for i, sides in enumerate(zip(block.positive, block.negative, strict=True))
        if not any(has_stock_phrase(t) for side in sides for t in side)
    ]
    if len(free) < len(block.units):
        parts.append(("tfidf (no stock phrases)", POOLED, block.keep(free)))
    rows, gaps = [], np.zeros(0)

    def add(feature: str, domain: str, part: Block, plus: np.ndarray, minus: np.ndarray) -> None:
        area = auroc(plus, minus)
        rows.append(AuditRow(block=part.name, domain=domain, feature=feature, n_scenarios=len(part.units), area=area))

    for feature, domain, part in parts:
        if len(part.units) < 2 * FOLDS:
            continue
        folds = _folds(part, seed)
        scores = cross_scores(_joined(part.positive), _joined(part.negative), folds, tfidf_baseline())
        add(feature, domain, part, *scores)
        if feature != "tfidf":
            continue
        gaps = scores[0] - scores[1]
        for other, reader in (("tfidf (letters)", letters_baseline()), ("naive Bayes", bayes_baseline())):
            add(other, domain, part, *cross_scores(_joined(part.positive), _joined(part.negative), folds, reader))
        wordings = [len(unit) for unit in part.positive]
        if max(wordings) > 1:  # what a reader makes of one answer, where the scenario's wordings make it easier
            plus, minus = (
                np.asarray([t for unit in s for t in unit], dtype=object) for s in (part.positive, part.negative)
            )
            add(
                "tfidf (one answer)",
                domain,
                part,
                *cross_scores(plus, minus, np.repeat(folds, wordings), tfidf_baseline()),
            )
    return rows, gaps


def _folds(part: Block, seed: int) -> Int[np.ndarray, "unit"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a domain with fewer scenarios than folds is spread as it can be
        return balanced_folds(part.units, part.domains, FOLDS, seed)


def _joined(side: list[list[str]]) -> np.ndarray:
    return np.asarray(["\n".join(unit) for unit in side], dtype=object)


def _driving_terms(block: Block) -> list[tuple[str, float]]:
    model = tfidf_baseline()
    texts = np.concatenate([_joined(block.positive), _joined(block.negative)])
    model.fit(texts, np.repeat([1, 0], len(block.units)))
    names = model[0].get_feature_names_out()
    weights = model[-1].coef_[0] * np.sqrt(np.asarray(model[0].transform(texts).power(2).mean(axis=0)).ravel())
    order = np.argsort(-np.abs(weights))[: 2 * SHOWN]
    return [(str(names[i]), float(weights[i])) for i in order]


def _area_failures(rows: Sequence[AuditRow], limits: AuditLimits) -> list[str]:
    found = []
    single = feature_table()
    for row in rows:
        if row.n_scenarios < limits.judged_from or not np.isfinite(row.area):
            continue
        if row.feature in single:
            limit = limits.feature if row.domain == POOLED else limits.feature_domain
        else:
            limit = limits.tfidf
        if folded(row.area) > limit:
            found.append(
                f"{row.block}, {row.domain}: {row.feature} tells the sides apart with AUROC {row.area:.3f} "
                f"(limit {limit:.2f}, {row.n_scenarios} scenarios)"
            )
    return found


def _stock_failures(block: Block, limits: AuditLimits) -> list[str]:
    found = []
    slices = block.slices()
    for domain, members in slices.items():
        if domain == POOLED and len(slices) > 1:
            continue  # each domain is judged by itself
        used = sum(any(has_stock_phrase(t) for t in block.positive[i]) for i in members)
        if used > limits.stock_share * len(members):
            found.append(f"{block.name}, {domain}: {used} of {len(members)} scenarios use set phrases of sympathy")
    return found
