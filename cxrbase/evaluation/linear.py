"""Linear probe: L2-regularised logistic regression of every class at once, on frozen features."""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrbase.evaluation.metrics import auroc, macro_samples

Floats = npt.NDArray[np.float64]

# Features (N times D) from which C is chosen in single precision, in less than half the time.
LARGE = 2**24
GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 3))
_MAX_ITERATIONS = 100  # of L-BFGS per value of C
# Of the gradient and of the loss, where L-BFGS stops; below, rounding moves them more than a step does.
_TOLERANCES = {torch.float64: (1e-7, 1e-12), torch.float32: (1e-5, 1e-7)}


class LinearProbe:
    """Multi-label logistic regression on standardised features, its regularisation chosen on validation AUROC.

    Each class minimises sum(log loss) + |w|^2 / (2 C) over the images where its label is known (intercept free), as
    scikit-learn's LogisticRegression does. One pass from the strongest to the weakest regularisation, each started at
    the one before; the C with the best validation AUROC is kept per class, the strongest on a tie. A class
    that validation cannot judge takes the C that is best on average over the others, or the middle of the grid.
    The result is deterministic. Large tables are gone through in single precision to choose C, and the weights at the
    C chosen are then found in double precision as everywhere.

    Args:
        grid: Values of C to try, above 0, in any order. The default spans 1e-5 to 10 in half decades.

    Attributes:
        regularisation: (K,) the C chosen.
        coefficients: (K, D) on standardised features; NaN for a class without both labels in training.
        intercepts: (K,).

    Raises:
        ValueError: If the grid is empty or holds a value that is not above 0.
    """

    def __init__(self, *, grid: Sequence[float] = GRID) -> None:
        if not grid or min(grid) <= 0:
            raise ValueError(f"grid must hold values above 0, got {tuple(grid)}")
        self.grid = tuple(sorted(grid))

    def fit(
        self, train: npt.ArrayLike, train_labels: npt.ArrayLike, val: npt.ArrayLike, val_labels: npt.ArrayLike
    ) -> Self:
        """Fits every C of the grid on the training images and keeps, per class, the best on the validation images.

        Args:
            train: (N, D) features.
            train_labels: (N, K), 1 present, 0 absent, NaN unknown.
            val: (V, D) features.
            val_labels: (V, K).
        """
        problem = _Problem(train, train_labels)
        judged, large = problem.standardise(val), problem.table.numel() >= LARGE
        quick = problem.single() if large else problem
        path: list[Tensor] = []
        areas: list[Floats] = []
        for value in self.grid:
            start = path[-1] if path else None
            path.append(quick.solve(np.full(problem.classes, value), start))
            areas.append(auroc(problem.logits(judged, path[-1].double()), val_labels))
        best = _choose(np.stack(areas))
        self.regularisation = np.asarray(self.grid)[best]
        weights = torch.stack(path)[torch.from_numpy(best), :, torch.arange(problem.classes)].T.double()
        return self._keep(problem, problem.solve(self.regularisation, weights) if large else weights)

    def refit(self, train: npt.ArrayLike, train_labels: npt.ArrayLike) -> Self:
        """Fits again on other images, such as training and validation together, at the C chosen by `fit`.

        Args:
            train: (N, D) features.
            train_labels: (N, K).
        """
        problem = _Problem(train, train_labels)
        return self._keep(problem, problem.solve(self.regularisation, None))

    def scores(self, features: npt.ArrayLike) -> Floats:
        """Log-odds of each class.

        Args:
            features: (N, D).

        Returns:
            (N, K); a column is NaN where training had no positive or no negative of the class.
        """
        table = (np.asarray(features, dtype=np.float64) - self._mean) / self._scale
        result: Floats = table @ self.coefficients.T + self.intercepts
        return result

    def unscaled(self) -> tuple[Floats, Floats]:
        """Weights (K, D) and intercepts (K,) that give the same scores of features that are not standardised."""
        weights: Floats = self.coefficients / self._scale
        return weights, self.intercepts - weights @ self._mean

    def _keep(self, problem: "_Problem", weights: Tensor) -> Self:
        self._mean, self._scale = problem.mean, problem.scale
        self.coefficients: Floats = (problem.basis @ weights[:-1]).T.numpy()
        self.intercepts: Floats = weights[-1].numpy()
        self.coefficients[~problem.defined] = self.intercepts[~problem.defined] = np.nan
        return self


class _Problem:
    """The training data, standardised and rotated to its principal axes, where the loss is nearly a sum of parabolas.

    The L2 penalty does not notice a rotation, but there the Hessian is close to diagonal and known beforehand
    (eigenvalue times mean p (1 - p), plus 1 / C), and scaling by it makes L-BFGS need few steps at any C.
    """

    def __init__(self, features: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        table, truth = np.asarray(features), torch.from_numpy(np.array(labels, dtype=np.float64))
        if table.ndim != 2 or truth.ndim != 2 or len(table) != len(truth) or not len(table):
            shapes = f"{table.shape} and {tuple(truth.shape)}"
            raise ValueError(f"features and labels must be (N, D) and (N, K) with N > 0, got {shapes}")
        self.mean: Floats = table.mean(0, dtype=np.float64)
        scale: Floats = table.std(0, dtype=np.float64)
        # A constant feature says nothing; what rounding leaves of it must not be blown up to unit variance.
        self.scale = np.where(scale > 1e-6 * np.abs(self.mean), scale, np.inf)
        known = ~truth.isnan()
        self.truth, self.classes = truth.nan_to_num(), truth.shape[1]
        self.share = known / known.sum(0).clamp(min=1)
        rate = (self.truth * self.share).sum(0)
        self.count, self.spread = known.sum(0).clamp(min=1), rate * (1 - rate)
        self.defined: npt.NDArray[np.bool_] = (self.spread > 0).numpy()
        standard = torch.from_numpy((table - self.mean) / self.scale)
        self.variance, self.basis = torch.linalg.eigh(standard.T @ standard / len(standard))
        self.table = standard @ self.basis

    def single(self) -> "_Problem":
        """The same in single precision."""
        found = copy.copy(self)
        for name in ("truth", "share", "spread", "variance", "table"):
            setattr(found, name, getattr(self, name).float())
        return found

    def standardise(self, features: npt.ArrayLike) -> Tensor:
        rotated: Tensor = (
            torch.from_numpy((np.asarray(features, dtype=np.float64) - self.mean) / self.scale) @ self.basis
        )
        return rotated

    def logits(self, table: Tensor, weights: Tensor) -> Floats:
        logits: Floats = torch.addmm(weights[-1], table, weights[:-1]).numpy()
        logits[:, ~self.defined] = np.nan
        return logits

    def solve(self, values: Floats, start: Tensor | None) -> Tensor:
        """Weights (D + 1, K) in the rotated basis, the intercepts last, that minimise the loss at C = values (K,)."""
        kind = self.table.dtype
        penalty = (1.0 / (torch.from_numpy(values) * self.count)).to(kind)
        start = torch.zeros(len(self.variance) + 1, self.classes, dtype=kind) if start is None else start
        chance = torch.sigmoid(torch.addmm(start[-1], self.table, start[:-1]))
        curvature = (chance * (1 - chance) * self.share).sum(0).clamp(min=1e-6)
        scale = (curvature * self.variance.clamp(min=0)[:, None] + penalty).rsqrt()
        scale = torch.cat([scale, curvature.rsqrt()[None]])
        scaled = start / scale
        optimizer = torch.optim.LBFGS(
            [scaled], max_iter=_MAX_ITERATIONS, history_size=10, line_search_fn="strong_wolfe",
            tolerance_grad=_TOLERANCES[kind][0], tolerance_change=_TOLERANCES[kind][1],
        )  # fmt: skip
        optimizer.step(lambda: self._loss(scaled, scale, penalty))  # type: ignore[no-untyped-call]
        return scaled.detach() * scale

    def _loss(self, scaled: Tensor, scale: Tensor, penalty: Tensor) -> float:
        # The gradient is written out: a probe may run inside a validation loop, where autograd is off.
        weights = scaled.detach() * scale
        logits = torch.addmm(weights[-1], self.table, weights[:-1])
        error = (torch.sigmoid(logits) - self.truth) * self.share
        loss = ((F.softplus(logits) - self.truth * logits) * self.share).sum()
        gradient = torch.cat([self.table.T @ error + penalty * weights[:-1], error.sum(0, keepdim=True)])
        scaled.grad = gradient * scale
        return float(loss + 0.5 * (penalty * weights[:-1].square()).sum())


def _choose(areas: Floats) -> npt.NDArray[np.int64]:
    """Index of the best C per class from validation AUROC (C, K), the first (strongest) on a tie."""
    average = macro_samples(areas, areas.sum(0))
    fallback = len(areas) // 2 if np.isnan(average).all() else int(np.nanargmax(average))
    judged = ~np.isnan(areas).any(0)
    best: npt.NDArray[np.int64] = np.full(areas.shape[1], fallback)
    best[judged] = areas[:, judged].argmax(0)
    return best
