"""Made tables for `benchmarks/quality.py`: each hard in one way, seeded, noisy, made with no learner in mind.

A function returns columns by name; the outcome is drawn from its log-odds, so that no model can be perfect. Most of the
rows of a small table are there to be tested on, so that a difference of .002 in AUC is more than chance.
"""

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.generic]
Columns = dict[str, Column]
Reals = npt.NDArray[np.float64]


def thresholds(rng: np.random.Generator, rows: int) -> Columns:
    """Few numbers with sharp steps at odd places, some of which count together only."""
    age, income, score, load = (
        rng.uniform(18, 90, rows),
        rng.gamma(2, 20, rows),
        rng.normal(0, 1, rows),
        rng.random(rows),
    )
    steps = 1.2 * (age > 61.7) - 0.9 * (age > 25.3) + 1.1 * (income > 23.5) * (score > 0.41) - 1.5 * (load < 0.137)
    return _with_label(
        rng, steps - 0.7 + 1.3 * (np.abs(score + 1.05) < 0.2), age=age, income=income, score=score, load=load
    )


def smooth(rng: np.random.Generator, rows: int) -> Columns:
    """Twelve numbers whose effects are smooth and add up: trees need many steps for what is one curve."""
    x = rng.normal(0, 1, (rows, 12))
    effect = (
        0.8 * x[:, 0] + 0.6 * np.sin(1.5 * x[:, 1]) - 0.25 * x[:, 2] ** 2 + 0.5 * np.tanh(2 * x[:, 3]) + 0.3 * x[:, 4]
    )
    return _with_label(rng, effect + 0.15 * x[:, 5] - 0.15 * x[:, 6] - 0.4, **_named(x))


def interactions(rng: np.random.Generator, rows: int) -> Columns:
    """Signs of products of two and of three numbers, each of which says nothing by itself."""
    x = rng.normal(0, 1, (rows, 8))
    effect = 1.3 * np.sign(x[:, 0] * x[:, 1]) + 0.9 * np.sign(x[:, 2] * x[:, 3] * x[:, 4]) + 0.5 * x[:, 5]
    return _with_label(rng, effect, **_named(x))


def many_values(rng: np.random.Generator, rows: int) -> Columns:
    """Draw a category of 800 values, few of them frequent, with effects of their own, beside ordinary features."""
    shop, x = _zipf(rng, rows, 800), rng.normal(0, 1, (rows, 5))
    segment = rng.integers(0, 6, rows)
    effect = (
        rng.normal(0, 1, 800)[shop] + 0.6 * x[:, 0] - 0.4 * x[:, 1] * (segment == 2) + rng.normal(0, 0.5, 6)[segment]
    )
    return _with_label(rng, effect - 0.8, shop=_words("shop", shop), segment=_words("segment", segment), **_named(x))


def crossed_values(rng: np.random.Generator, rows: int) -> Columns:
    """Two categories of 500 and 60 values; what one means depends on the group that the other belongs to."""
    shop, product, x = rng.integers(0, 500, rows), _zipf(rng, rows, 60), rng.normal(0, 1, (rows, 4))
    group = rng.integers(0, 3, 60)[product]
    effect = rng.normal(0, 0.9, (500, 3))[shop, group] + rng.normal(0, 0.6, 60)[product] + 0.5 * x[:, 0]
    return _with_label(rng, effect - 0.5, shop=_words("shop", shop), product=_words("product", product), **_named(x))


def noise_values(rng: np.random.Generator, rows: int) -> Columns:
    """Draw a category of 1,000 values that mean nothing, nearly an identifier, beside six numbers: a trap."""
    x = rng.normal(0, 1, (rows, 6))
    effect = 0.7 * x[:, 0] - 0.5 * x[:, 1] + 0.4 * x[:, 2] * x[:, 3] - 1
    return _with_label(rng, effect, agent=_words("agent", rng.integers(0, 1000, rows)), **_named(x))


def skewed(rng: np.random.Generator, rows: int) -> Columns:
    """Draw sums of money with Pareto and lognormal tails, in which the last percents of the rows matter."""
    balance, spent, limit = rng.pareto(1.1, rows) * 100, rng.lognormal(4, 2, rows), rng.lognormal(7, 1, rows)
    debts = rng.pareto(1.5, rows) * 10
    effect = 0.9 * (balance > 9_000) + 1.8 * (balance > 60_000) + 0.5 * np.log1p(spent / limit) - 1.4 * (debts > 400)
    effect += 0.25 * np.log(spent) - 2.3 + 0.5 * rng.normal(0, 1, rows)
    return _with_label(rng, effect, balance=balance, spent=spent, limit=limit, debts=debts)


def blanks(rng: np.random.Generator, rows: int) -> Columns:
    """Draw counts that are mostly zero, and numbers that are absent for a reason, which tells more than they would."""
    visits, calls = (rng.poisson(rng.gamma(shape, scale, rows)) * 1.0 for shape, scale in ((0.3, 4), (0.2, 5)))
    worth, income, age = rng.normal(0, 1, rows), rng.normal(0, 1, rows), rng.uniform(18, 80, rows)
    effect = -0.9 * (visits == 0) + 0.25 * np.sqrt(visits) - 0.5 * (calls > 3) + 0.8 * worth + 0.5 * income - 0.3
    told = {"income": income, "worth": worth, "age": age}
    hidden = {"income": 1.5 * income - 1.5, "worth": -1.2 * worth - 1, "age": np.full(rows, -2.0)}
    blanked = {name: np.where(rng.random(rows) < _sigmoid(hidden[name]), np.nan, told[name]) for name in told}
    return _with_label(rng, effect + 0.02 * (age - 45), visits=visits, calls=calls, **blanked)


def few_rows(rng: np.random.Generator, rows: int) -> Columns:
    """Twenty features, five of which count, and three thousand rows to find out."""
    x, kind = rng.normal(0, 1, (rows, 17)), rng.integers(0, 5, (rows, 3))
    effect = (
        0.7 * x[:, 0] + 0.5 * np.maximum(x[:, 1], 0) - 0.5 * x[:, 2] * (kind[:, 0] == 1) + 0.6 * (kind[:, 1] > 2) - 1.2
    )
    return _with_label(rng, effect, **_named(x), **{f"kind{j}": _words("k", kind[:, j]) for j in range(3)})


def rare(rng: np.random.Generator, rows: int) -> Columns:
    """Half a percent of positives, of three sorts that look different."""
    x, channel, spent = rng.normal(0, 1, (rows, 10)), rng.integers(0, 8, rows), rng.lognormal(3, 1, rows)
    effect = 1.2 * x[:, 0] + 2.2 * (x[:, 1] > 1.5) * (channel == 3) + 0.7 * np.maximum(x[:, 2] + x[:, 3], 0) - 7.3
    effect += 1.5 * (spent > 120) + 0.4 * rng.normal(0, 1, rows)
    return _with_label(rng, effect, **_named(x), channel=_words("channel", channel), spent=spent)


def wide(rng: np.random.Generator, rows: int) -> Columns:
    """Eighty numbers, seventy of them noise."""
    x = rng.normal(0, 1, (rows, 80))
    effect = x[:, :6] @ np.array([0.6, -0.5, 0.4, 0.4, -0.3, 0.3]) + 0.5 * x[:, 6] * x[:, 7] + 0.5 * (x[:, 8] > 0.8)
    return _with_label(rng, effect + 0.4 * np.abs(x[:, 9]) - 0.6, **_named(x))


def flags(rng: np.random.Generator, rows: int) -> Columns:
    """Sixty yes-or-no columns of all rates, some pairs of which mean more than their sum."""
    on = rng.random((rows, 60)) < rng.beta(1, 3, 60)
    weights = rng.normal(0, 0.35, 60) * (rng.random(60) < 0.6)
    pairs = rng.integers(0, 60, (6, 2))
    effect = on @ weights + (on[:, pairs[:, 0]] & on[:, pairs[:, 1]]) @ rng.normal(0, 1, 6) - 0.6
    return _with_label(rng, effect, **_named(on.astype(np.int64)))


def correlated(rng: np.random.Generator, rows: int) -> Columns:
    """Twenty noisy readings of three hidden quantities, which are what counts, and differ little between readings."""
    hidden = rng.normal(0, 1, (rows, 3))
    x = hidden @ rng.normal(0, 1, (3, 20)) + rng.normal(0, 0.6, (rows, 20))
    effect = 0.9 * hidden[:, 0] - 0.7 * hidden[:, 1] ** 2 + 0.8 * hidden[:, 2] * (hidden[:, 0] > 0) + 0.3
    return _with_label(rng, effect, **_named(x))


def periodic(rng: np.random.Generator, rows: int) -> Columns:
    """Hours of the day and days of the year, whose effects go up and down, and a counter that goes round."""
    hour, day, count, x = (
        rng.uniform(0, 24, rows),
        rng.integers(0, 365, rows),
        rng.uniform(0, 50, rows),
        rng.normal(0, 1, rows),
    )
    effect = np.sin(hour * np.pi / 6) + 0.8 * np.cos(2 * np.pi * day / 365) + 0.9 * np.sin(count * np.pi / 4) + 0.5 * x
    return _with_label(rng, effect - 0.5, hour=hour, day=day, count=count, x=x)


def mixed(rng: np.random.Generator, rows: int) -> Columns:
    """Two hundred thousand rows to learn from, numbers, money, counts, blanks and categories: an ordinary table."""
    x, money, count = rng.normal(0, 1, (rows, 8)), rng.lognormal(4, 1.2, (rows, 3)), rng.poisson(2, (rows, 3))
    plan, region, brand, shop = (rng.integers(0, size, rows) for size in (4, 12, 40, 200))
    effect = (
        0.6 * x[:, 0] + 0.4 * x[:, 1] * x[:, 2] - 0.5 * (x[:, 3] > 1) * (plan == 2) + 0.3 * np.log1p(money[:, 0] / 50)
    )
    effect += (
        0.25 * count[:, 0] - 0.4 * (count[:, 1] == 0) + rng.normal(0, 0.4, 12)[region] + rng.normal(0, 0.4, 200)[shop]
    )
    effect += rng.normal(0, 0.3, 40)[brand] - 0.3 * np.abs(x[:, 4]) - 1.6
    x[rng.random(rows) < _sigmoid(x[:, 1] - 2), 1] = np.nan
    texts = {"plan": plan, "region": region, "brand": brand, "shop": shop}
    numbers = {f"money{j}": money[:, j] for j in range(3)} | {f"count{j}": count[:, j] for j in range(3)}
    return _with_label(
        rng, effect, **_named(x), **numbers, **{name: _words(name, codes) for name, codes in texts.items()}
    )


def _with_label(rng: np.random.Generator, log_odds: Reals, **columns: Column) -> Columns:
    return {**columns, "label": rng.random(len(log_odds)) < _sigmoid(log_odds)}


def _sigmoid(log_odds: Reals) -> Reals:
    return 1 / (1 + np.exp(-log_odds))


def _named(table: npt.NDArray[np.generic]) -> Columns:
    return {f"x{j}": table[:, j] for j in range(table.shape[1])}


def _words(name: str, codes: npt.NDArray[np.int64]) -> Column:
    return np.char.add(f"{name} ", codes.astype(str))


def _zipf(rng: np.random.Generator, rows: int, values: int) -> npt.NDArray[np.int64]:
    """Draw values of which the k-th is taken with a probability in proportion to 1 / (k + 10)."""
    shares = 1 / (np.arange(values) + 10)
    return rng.choice(values, rows, p=shares / shares.sum())
