"""Directions as scikit-learn estimators: fit(X, y) with y in {0, 1}, decision_function(X) > 0 reads positive."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.logistic import choose_c, solve_logistic, span
from probes.readers import INNER_FOLDS, fit_reader
from probes.sides import Sides, balanced_folds


class _BinaryProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What every two-class probe shares: checked labels, predictions from scores."""

    def _checked(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) == 1:
            raise ValueError(f"{type(self).__name__} needs samples of two classes, got 1 class")
        kind = type_of_target(y, input_name="y")
        if kind != "binary":
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        return X, y

    def decision_function(self, X: Any) -> np.ndarray:
        """Score [sample]; above 0 reads as the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._scores(X)

    def predict(self, X: Any) -> np.ndarray:
        """Class of each sample."""
        scores = self.decision_function(X)
        predicted: np.ndarray = self.classes_[(scores > 0).astype(int)]
        return predicted

    def _scores(self, X: np.ndarray) -> np.ndarray:
        scores: np.ndarray = X @ self.coef_ + self.intercept_
        return scores

    def __sklearn_tags__(self) -> Any:
        """Two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class MassMean(_BinaryProbe):
    """Difference of class means as a direction, thresholded at their midpoint.

    Notes:
        coef_ = δ = mean(X[y = 1]) − mean(X[y = 0]); intercept_ = −δ·(sum of the two means)/2. The sign follows the
        training labels. `coef_` keeps its length |δ|; scores are divided by it, so that they are in the units of X.

    References:
        Marks & Tegmark, arXiv:2310.06824, §5 (mass-mean probing); Belrose, "Diff-in-means concept editing is
        worst-case optimal" (2023).

    Examples:
        >>> import numpy as np
        >>> probe = MassMean().fit(np.array([[0.0, 0.0], [2.0, 0.0]]), [0, 1])
        >>> probe.decision_function(np.array([[3.0, 5.0]]))
        array([2.])
    """

    def fit(self, X: Any, y: Any) -> "MassMean":
        """Fit on X [sample, feature] and two-class labels y [sample]; returns self.

        Raises:
            ValueError: not two classes, non-finite values, or class means that coincide.
        """
        X, y = self._checked(X, y)
        negative, positive = (X[y == c].mean(axis=0) for c in self.classes_)
        self.coef_ = positive - negative
        self.norm_ = float(np.linalg.norm(self.coef_))
        if self.norm_ == 0.0:
            # Nothing separates the classes: every sample scores 0 and reads as the first class.
            self.intercept_ = 0.0
            return self
        self.intercept_ = -float(self.coef_ @ (positive + negative)) / 2
        return self

    def _scores(self, X: np.ndarray) -> np.ndarray:
        """Signed distance [sample] from the midpoint along the unit direction, in the units of X."""
        return super()._scores(X) / (self.norm_ or 1.0)


class _PairedProbe(_BinaryProbe):
    """A probe that works on scenarios, each with a row of either class.

    `groups` names the scenario of every row; rows of one scenario and class are averaged. Without groups the n-th row
    of the one class belongs to the n-th of the other, as far as both go.
    """

    method: str
    poor_score = False  # whether it may separate worse than a classifier should

    def fit(self, X: Any, y: Any, groups: Any = None) -> "_PairedProbe":
        """Fit on X [sample, feature], two-class labels y [sample] and optional scenarios [sample]; returns self.

        Raises:
            ValueError: not two classes, non-finite values, or too few scenarios that have both.
        """
        X, y = self._checked(X, y)
        sides = _paired(X.astype(np.float64), y == self.classes_[1], groups)
        vector, offset = fit_reader(sides, self.method, seed=0)
        self.coef_, self.intercept_ = vector, offset
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks may expect of its scores."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = self.poor_score
        return tags


class Whitened(_PairedProbe):
    """Mean difference through the inverse of the scenario differences' Ledoit-Wolf covariance.

    Notes:
        w ∝ Σ⁻¹δ, Σ the shrunk covariance of δ_s − δ̄, which holds no signal (scenario-centred rows would: they are
        ±δ_s/2).

    References:
        Ledoit & Wolf (2004); Walther et al. (2016), on multivariate noise normalisation.
    """

    method = "whitened"


class PCADifference(_PairedProbe):
    """First principal direction of the scenario differences about 0, its sign set by the labels.

    References:
        Zou et al., arXiv:2310.01405 (reading vectors).
    """

    method = "pca"
    poor_score = True  # it looks for spread, not for separation


class CCS(_PairedProbe):
    """Contrast-consistent search: what the two sides of a scenario must disagree on. Labels only set its sign.

    References:
        Burns et al., arXiv:2212.03827, eq. 1–3.
    """

    method = "ccs"
    poor_score = True  # it sees no labels


class LogisticProbe(_BinaryProbe):
    """L2-regularised logistic regression on standardised features, solved in the span of its training rows.

    Notes:
        With fewer rows than features the ridge solution lies in the rows' span, and the penalty is the same in any
        orthonormal basis of it; solving there gives scikit-learn's answer at a fraction of the time. Standardisation
        (fitted on the training rows) comes first; it sees no labels, so the inner folds share it.

    Args:
        C: inverse penalty, as in sklearn.linear_model.LogisticRegression. None chooses it from `C_GRID` by held-out log
            loss over inner folds, grouped where `fit` is given groups.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(40, 100)); y = np.arange(40) % 2; X[y == 1, 0] += 5
        >>> bool(LogisticProbe().fit(X, y).score(X, y) == 1.0)
        True
    """

    def __init__(self, C: Any = None) -> None:
        self.C = C

    def fit(self, X: Any, y: Any, groups: Any = None) -> "LogisticProbe":
        """Fit on X [sample, feature], two-class labels y [sample] and optional scenarios [sample]; returns self.

        Raises:
            ValueError: not two classes, or non-finite values.
        """
        X, y = self._checked(X, y)
        self.scaler_ = StandardScaler().fit(X)
        features, basis = span(self.scaler_.transform(X).astype(np.float64))
        labels = np.where(y == self.classes_[1], 1.0, -1.0)
        self.C_ = self.C if self.C is not None else choose_c(features, labels, _inner(labels, groups))
        w, b = solve_logistic(features, labels, np.ones((1, len(X))), np.asarray([float(self.C_)]))
        self.coef_, self.intercept_ = basis @ w[0], float(b[0])
        return self

    def _scores(self, X: np.ndarray) -> np.ndarray:
        """Log-odds [sample] of the second class."""
        return super()._scores(self.scaler_.transform(X))


def _inner(labels: np.ndarray, groups: Any) -> np.ndarray:
    """The inner fold of every row: grouped by scenario, else balanced by class."""
    if groups is None:
        smallest = int(min((labels > 0).sum(), (labels < 0).sum()))
        folds = np.zeros(len(labels), dtype=np.int64)
        for side in (labels > 0, labels < 0):
            folds[side] = np.arange(side.sum()) % min(INNER_FOLDS, smallest)
        return folds
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    units = [str(name) for name in names]
    folds = balanced_folds(units, ["" for _ in units], min(INNER_FOLDS, len(units)), 0)
    return folds[number]


def _paired(X: np.ndarray, second: np.ndarray, groups: Any) -> Sides:
    if groups is None:
        n = min(int(second.sum()), int((~second).sum()))
        return Sides(positive=X[second][:n], negative=X[~second][:n])
    given = np.asarray(groups)
    both = [g for g in np.unique(given) if second[given == g].any() and (~second[given == g]).any()]
    if not both:
        raise ValueError("no scenario has samples of both classes")
    return Sides(
        positive=np.stack([X[(given == g) & second].mean(axis=0) for g in both]),
        negative=np.stack([X[(given == g) & ~second].mean(axis=0) for g in both]),
    )
