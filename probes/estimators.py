"""Directions as scikit-learn estimators: fit(X, y) with y in {0, 1}, decision_function(X) > 0 reads positive."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data


class MassMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
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

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on X [sample, feature] and two-class labels y [sample]; returns self.

        Raises:
            ValueError: not two classes, non-finite values, or class means that coincide.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError(f"MassMean needs samples of two classes, got {len(self.classes_)} class")
        negative, positive = (X[y == c].mean(axis=0) for c in self.classes_)
        self.coef_ = positive - negative
        self.norm_ = float(np.linalg.norm(self.coef_))
        if self.norm_ == 0.0:
            # Nothing separates the classes: every sample scores 0 and reads as the first class.
            self.intercept_ = 0.0
            return self
        self.intercept_ = -float(self.coef_ @ (positive + negative)) / 2
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Signed distance [sample] from the midpoint along the unit direction, in the units of X."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores: np.ndarray = (X @ self.coef_ + self.intercept_) / (self.norm_ or 1.0)
        return scores

    def predict(self, X: Any) -> np.ndarray:
        """Class of each sample."""
        predicted: np.ndarray = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        """Two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class LogisticProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """L2-regularised logistic regression on standardised features, solved in the span of its training rows.

    Notes:
        With fewer rows than features the ridge solution lies in the rows' span, and the penalty is the same in any
        orthonormal basis of it; solving there gives scikit-learn's answer at a fraction of the time. Standardisation
        (fitted on the training rows) comes first.

    Args:
        C: inverse penalty, as in sklearn.linear_model.LogisticRegression.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(40, 100)); y = np.arange(40) % 2; X[y == 1, 0] += 5
        >>> bool(LogisticProbe().fit(X, y).score(X, y) == 1.0)
        True
    """

    def __init__(self, C: float = 0.01) -> None:
        self.C = C

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on X [sample, feature] and two-class labels y [sample]; returns self.

        Raises:
            ValueError: not two classes, or non-finite values.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError(f"LogisticProbe needs samples of two classes, got {len(self.classes_)} class")
        self.scaler_ = StandardScaler().fit(X)
        Z = self.scaler_.transform(X)
        basis = np.linalg.qr(Z.T)[0] if len(Z) < Z.shape[1] else np.eye(Z.shape[1])
        solver = LogisticRegression(C=self.C, max_iter=1000, tol=1e-6).fit(Z @ basis, y)
        self.coef_ = basis @ solver.coef_[0]
        self.intercept_ = float(solver.intercept_[0])
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-odds [sample] of the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores: np.ndarray = self.scaler_.transform(X) @ self.coef_ + self.intercept_
        return scores

    def predict(self, X: Any) -> np.ndarray:
        """Class of each sample."""
        predicted: np.ndarray = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        """Two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
