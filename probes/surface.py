"""What the text alone gives away: baselines that see no activation, on the same folds as the probes."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from activations.pairs import PairSet
from probes.estimators import MassMean
from probes.evaluate import auroc, cross_scores
from probes.features import feature_table, measure
from probes.sides import Layout

WORD = r"(?u)\b\w+\b"  # one-letter words ("I", "a") count
Scores = tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]


def side_texts(pairs: PairSet, plan: Layout, contrast: str) -> tuple[np.ndarray, np.ndarray]:
    """The answers of every scenario and side as text, wordings joined by a line break; object arrays [scenario]."""
    found: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs.pairs:
        if pair.contrast == contrast and pair.role == "response" and pair.design == "contrast":
            found.setdefault(pair.scenario_id, []).append((pair.positive, pair.negative))
    positive = ["\n".join(p for p, _ in found[s]) for s in plan.scenarios]
    negative = ["\n".join(n for _, n in found[s]) for s in plan.scenarios]
    return np.asarray(positive, dtype=object), np.asarray(negative, dtype=object)


def tfidf_baseline() -> Pipeline:
    """Logistic regression on TF-IDF of word 1–2-grams: the strongest reader that sees words and no meaning."""
    return _reader(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD))


def letters_baseline() -> Pipeline:
    """The same on letter 2–5-grams within words: endings, tenses and parts of words, where words were balanced."""
    return _reader(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))


class NaiveBayes(MultinomialNB):  # type: ignore[misc]
    """scikit-learn's, with the log-odds of the second of two classes as its score."""

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds [sample]; a prior of equal classes drops out."""
        scores = self.predict_joint_log_proba(X)
        odds: np.ndarray = scores[:, 1] - scores[:, 0]
        return odds


def bayes_baseline() -> Pipeline:
    """Naive Bayes on which word 1–2-grams occur: adds up many weak words where a fitted reader shrinks them."""
    return make_pipeline(CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=WORD), NaiveBayes())


def _reader(vectorizer: TfidfVectorizer) -> Pipeline:
    return make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=2000))


def surface_areas(positive: np.ndarray, negative: np.ndarray, folds: Int[np.ndarray, "scenario"]) -> dict[str, float]:
    """Held-out AUROC of every reader of the text alone: each surface feature, TF-IDF, letters, naive Bayes.

    Single features learn on the training folds which side has more of them.

    Args:
        positive, negative: each scenario's answers, wordings joined by line breaks.
        folds: the fold of every scenario.
    """
    readers = {"tfidf": tfidf_baseline(), "letters": letters_baseline(), "naive-bayes": bayes_baseline()}
    found = {name: auroc(*cross_scores(positive, negative, folds, reader)) for name, reader in readers.items()}
    for name, feature in feature_table().items():
        plus, minus = (measure([t.split("\n") for t in side], feature)[:, None] for side in (positive, negative))
        found[name] = auroc(*cross_scores(plus, minus, folds, MassMean()))
    return found
