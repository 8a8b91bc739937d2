"""Linear probes: how much of what a frozen model knows a linear classifier can read from its features.

A tenth of *train* is held out to choose what has to be chosen; test rows are never seen here. (The probe of Zhang et
al. reports the best test accuracy over epochs, which is a choice made on the test rows.) Two solvers:

``lbfgs``  logistic regression, its C chosen, then fitted again on all of train
``adam``   Zhang et al.'s: one linear layer, Adam, its epoch chosen

Both read standardised features (theirs are not): one rate then means the same for features of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

SOLVERS = ("lbfgs", "adam")
HELD_OUT = 0.1
"""Share of train that chooses."""
STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""Values of C among which the held-out rows choose."""
ADAM_RATE, ADAM_BATCH, ADAM_EPOCHS = 1e-3, 512, 500
"""Of Zhang et al.; on ImageNet they stop after 100 epochs."""
MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted probe: scores are ``(features - shift) / scale @ weight.T + bias``."""

    weight: Float[np.ndarray, "classes dim"]
    bias: Float[np.ndarray, " classes"]
    shift: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    chosen: float
    """The C, or the number of epochs, that did best on the held-out rows."""
    held_out_accuracy: float
    """With that choice."""
    converged: bool = True

    def predict(self, features: Float[np.ndarray, "rows dim"]) -> Int[np.ndarray, " rows"]:
        """The best-scored class of each row."""
        return ((features - self.shift) / self.scale @ self.weight.T + self.bias).argmax(1)


def hold_out(labels: Int[np.ndarray, " rows"], seed: int, fraction: float = HELD_OUT) -> np.ndarray:
    """Which rows choose, ``[rows]`` of bool: that share of all, from every class as evenly as its size allows, and
    never all of a class."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        # One row stays to be learned from; the others queue up by their place in the class.
        rank[rows] = np.append((np.arange(len(rows) - 1) + 0.5) / len(rows), np.inf)
    count = min(max(1, round(fraction * len(labels))), int(np.isfinite(rank).sum()))
    held = np.zeros(len(labels), dtype=bool)
    held[order[np.argsort(rank[order], kind="stable")[:count]]] = True
    return held


def fit(
    features: Float[np.ndarray, "rows dim"],
    labels: Int[np.ndarray, " rows"],
    solver: str,
    seed: int,
    *,
    epochs: int = ADAM_EPOCHS,
) -> LinearProbe:
    """A probe of classes 0 to K - 1, each of which has a row, chosen on a tenth of the rows: some class has two."""
    held = hold_out(labels, seed)
    assert held.any(), "nothing to choose with"
    features = features.astype(np.float64)  # in fp32 the solver stops where rounding does, not at the minimum
    shift, scale = features[~held].mean(0), features[~held].std(0)
    scale = np.where(scale > 1e-6 * max(1.0, float(scale.max())), scale, 1.0)  # a constant feature says nothing
    scaled = (features - shift) / scale
    found = _fit_lbfgs(scaled, labels, held) if solver == "lbfgs" else _fit_adam(scaled, labels, held, seed, epochs)
    return LinearProbe(shift=shift, scale=scale, **found)


def _judge(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Accuracy, and minus the loss, which decides between equal accuracies."""
    probabilities = torch.from_numpy(scores).double()
    loss = F.cross_entropy(probabilities, torch.from_numpy(labels).long())
    return float((scores.argmax(1) == labels).mean()), -float(loss)


def _regression(features: np.ndarray, labels: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, bool]:
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)  # recorded instead
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes the library keeps the second one's row only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias, int(model.n_iter_.max()) < MAX_ITERATIONS


def _fit_lbfgs(scaled: np.ndarray, labels: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    best: tuple[tuple[float, float], float] | None = None
    for strength in STRENGTHS:
        weight, bias, _ = _regression(scaled[~held], labels[~held], strength)
        found = _judge(scaled[held] @ weight.T + bias, labels[held])
        if best is None or found > best[0]:
            best = (found, strength)
    assert best is not None
    weight, bias, converged = _regression(scaled, labels, best[1])
    chosen = {"chosen": best[1], "held_out_accuracy": best[0][0]}
    return {"weight": weight, "bias": bias, "converged": converged, **chosen}


def _fit_adam(scaled: np.ndarray, labels: np.ndarray, held: np.ndarray, seed: int, epochs: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(scaled[~held]).float(), torch.from_numpy(labels[~held]).long()
    count = int(labels.max()) + 1
    # From zero: of few rows Adam takes few small steps, and a random start would still be seen in the result.
    weight, bias = torch.zeros(count, scaled.shape[1], requires_grad=True), torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=ADAM_RATE)
    shown = torch.from_numpy(scaled[held]).float()
    best: dict[str, Any] | None = None
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(inputs), generator=generator).split(ADAM_BATCH):
            loss = F.cross_entropy(F.linear(inputs[rows], weight, bias), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found = _judge(F.linear(shown, weight, bias).numpy(), labels[held])
        if best is None or found > best["found"]:
            best = {"found": found, "epoch": epoch, "weight": weight.detach().clone(), "bias": bias.detach().clone()}
    assert best is not None, "at least one epoch"
    chosen = {"chosen": float(best["epoch"]), "held_out_accuracy": best["found"][0]}
    return {"weight": best["weight"].numpy(), "bias": best["bias"].numpy(), **chosen}


def numbers_of(names: Sequence[str], classes: Sequence[str]) -> Int[np.ndarray, " rows"]:
    """Names of classes as their places among ``classes``."""
    place = {name: number for number, name in enumerate(classes)}
    return np.array([place[name] for name in names], dtype=np.int64)
