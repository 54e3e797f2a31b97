"""Directions as scikit-learn estimators: fit(X, y) with y in {0, 1}, decision_function(X) > 0 reads positive."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data


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


class LogisticProbe(_BinaryProbe):
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

    def __init__(self, C: Any = 0.01) -> None:
        self.C = C

    def fit(self, X: Any, y: Any) -> "LogisticProbe":
        """Fit on X [sample, feature] and two-class labels y [sample]; returns self.

        Raises:
            ValueError: not two classes, or non-finite values.
        """
        X, y = self._checked(X, y)
        self.scaler_ = StandardScaler().fit(X)
        Z = self.scaler_.transform(X)
        solver = LogisticRegression(C=self.C, solver="newton-cholesky", tol=1e-8)
        if len(Z) < Z.shape[1]:
            # Z = U S Vᵀ from the small Gram matrix Z Zᵀ = U S² Uᵀ; US are the rows in the basis V of their own span.
            squares, U = np.linalg.eigh(Z @ Z.T)
            kept = squares > squares[-1] * 1e-12
            U, S = U[:, kept], np.sqrt(squares[kept])
            solver.fit(U * S, y)
            self.coef_ = Z.T @ (U @ (solver.coef_[0] / S))
        else:
            self.coef_ = solver.fit(Z, y).coef_[0]
        self.intercept_ = float(solver.intercept_[0])
        return self

    def _scores(self, X: np.ndarray) -> np.ndarray:
        """Log-odds [sample] of the second class."""
        return super()._scores(self.scaler_.transform(X))
