"""What the network stands beside in `benchmarks/quality.py`: boosted trees, plain and tuned, and a straight line.

All learn from the rows that Tandem's training and calibration have together, and read the same encoded rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.encoding import Encoded
from models.scoring import Scores
from models.training.split import Labels
from models.training.trees import fit_plain_trees

Matrix = npt.NDArray[np.float32]
Rival = Callable[[Encoded, Labels, Encoded, int], Scores]

CONFIGURATIONS, FOLDS, MOST_ROUNDS, PATIENCE = 12, 3, 1500, 50
MANY_ROWS = 50_000  # from here on one held-out fifth is enough to choose by, and twice the learning rate
# What is drawn from, evenly; the first configuration is the middle of it.
SPACE: dict[str, tuple[int, ...] | tuple[float, ...]] = {
    "num_leaves": (4, 7, 15, 31, 63),
    "min_data_in_leaf": (5, 20, 50, 100),
    "feature_fraction": (0.4, 0.6, 0.8, 1.0),
    "bagging_fraction": (0.6, 0.8, 1.0),
    "lambda_l2": (0.0, 1.0, 10.0),
    "cat_smooth": (10.0, 50.0),
    "cat_l2": (1.0, 10.0, 30.0),
}
MIDDLE = {"num_leaves": 15, "min_data_in_leaf": 20, "feature_fraction": 0.8, "bagging_fraction": 0.8, "lambda_l2": 1.0}


def boosted_trees(rows: Encoded, y: Labels, test: Encoded, seed: int) -> Scores:
    """Fit scikit-learn's HistGradientBoosting with its defaults."""
    return fit_plain_trees(rows, y, seed)(test)


def lightgbm(rows: Encoded, y: Labels, test: Encoded, seed: int) -> Scores:
    """Fit LightGBM, the best by log-loss of twelve configurations with early stopping, fitted again on all rows."""
    import lightgbm as gbm

    numbers = rows.numbers.shape[1]
    categories = list(range(numbers, numbers + rows.categories.shape[1]))
    data = gbm.Dataset(_table(rows), y, categorical_feature=categories, free_raw_data=False)
    folds = list(_folds(y, seed))
    tried = []
    for chosen in _configurations(seed):
        parameters = chosen | _fixed(len(rows), seed)
        found = gbm.cv(
            parameters, data, MOST_ROUNDS, folds=folds, callbacks=[gbm.early_stopping(PATIENCE, verbose=False)]
        )
        losses = found["valid binary_logloss-mean"]
        tried.append((min(losses), len(losses), parameters))
    _, rounds, parameters = min(tried, key=lambda one: one[0])
    scores: Scores = gbm.train(parameters, data, rounds).predict(_table(test)).astype(np.float32)
    return scores


def logistic(rows: Encoded, y: Labels, test: Encoded, seed: int) -> Scores:  # noqa: ARG001  # it draws nothing
    """Fit logistic regression to scaled numbers and one-hot categories, its penalty chosen by cross-validation."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = rows.numbers.shape[1]
    columns = numbers + rows.categories.shape[1]
    prepare = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), list(range(numbers))),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=10), list(range(numbers, columns))),
    )
    penalties = np.logspace(-3, 1, 5)
    model = LogisticRegressionCV(
        Cs=penalties, cv=3, scoring="neg_log_loss", max_iter=300, l1_ratios=(0,), use_legacy_attributes=False
    )
    fitted = make_pipeline(prepare, model).fit(_table(rows), y)
    scores: Scores = fitted.predict_proba(_table(test))[:, 1].astype(np.float32)
    return scores


RIVALS: dict[str, Rival] = {"boosted_trees": boosted_trees, "lightgbm": lightgbm, "logistic": logistic}


def _configurations(seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    drawn = [{name: rng.choice(values).item() for name, values in SPACE.items()} for _ in range(CONFIGURATIONS - 1)]
    return [dict(MIDDLE), *drawn]


def _fixed(rows: int, seed: int) -> dict[str, Any]:
    told = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "seed": seed, "bagging_freq": 1}
    threads = 0 if rows >= MANY_ROWS else 1  # on small tables threads wait for each other
    steady = {"num_threads": threads, "deterministic": True, "force_col_wise": True, "feature_pre_filter": False}
    return told | steady | {"learning_rate": 0.1 if rows >= MANY_ROWS else 0.05}


def _folds(y: Labels, seed: int) -> Any:
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    if len(y) >= MANY_ROWS:
        return StratifiedShuffleSplit(1, test_size=0.2, random_state=seed).split(y[:, None], y)
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(y[:, None], y)


def _table(rows: Encoded) -> Matrix:
    """Return numbers and category codes side by side, float32 [rows, features]; NaN is missing."""
    return np.hstack([rows.numbers, rows.categories.astype(np.float32)])
