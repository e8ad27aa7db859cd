"""What the customers look like: the features of `models/churn.yaml`, drawn as a company's lake would hold them.

Skewed, correlated, zero-inflated and rounded, with missing values only where the declaration allows them. No labels
here: who leaves is `demo/churn_process.py`.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from demo.draws import Codes, Draws, Flags, Reals

Days = npt.NDArray[np.int64]  # since 1970-01-01

PLANS = ("basic", "plus", "pro", "family", "business", "legacy")
CONTRACTS = ("monthly", "one_year", "two_years")
PAYMENTS = ("card", "direct_debit", "invoice", "wallet", "cash")
REGIONS = ("north", "south", "east", "west", "center", "islands")
CHANNELS = ("web", "shop", "partner", "phone", "referral", "field_sales")
BRANDS = ("apple", "samsung", "xiaomi", "google", "motorola", "sony", "nokia", "oneplus")
NEW_BRANDS = ("fairphone", "honor", "nothing", "oppo")  # on the market, but in no declaration yet

# Shares of the values above by age group: under 30, under 60, older.
PLAN_SHARES = ((0.30, 0.34, 0.20, 0.09, 0.07), (0.20, 0.30, 0.16, 0.20, 0.14), (0.45, 0.33, 0.06, 0.10, 0.06))
CONTRACT_SHARES = ((0.50, 0.25, 0.25), (0.34, 0.31, 0.35), (0.26, 0.34, 0.40))
PAYMENT_SHARES = (
    (0.48, 0.24, 0.07, 0.207, 0.003),
    (0.37, 0.42, 0.12, 0.087, 0.003),
    (0.17, 0.51, 0.29, 0.022, 0.008),
)
REGION_SHARES = ((0.24, 0.21, 0.16, 0.20, 0.182, 0.008),)
CHANNEL_SHARES = (
    (0.52, 0.20, 0.12, 0.05, 0.107, 0.003),
    (0.34, 0.33, 0.13, 0.11, 0.086, 0.004),
    (0.10, 0.54, 0.09, 0.20, 0.066, 0.004),
)
BRAND_SHARES = (
    (0.41, 0.25, 0.14, 0.07, 0.05, 0.015, 0.002, 0.040, 0.003, 0.006, 0.008, 0.006),
    (0.31, 0.33, 0.14, 0.06, 0.07, 0.028, 0.004, 0.042, 0.002, 0.006, 0.002, 0.006),
    (0.19, 0.46, 0.12, 0.03, 0.14, 0.036, 0.009, 0.010, 0.001, 0.002, 0.000, 0.002),
)

LIST_PRICES = np.array((14, 26, 41, 58, 79, 33), np.float32)  # per month, by plan
TYPICAL_DATA_GB = np.array((4, 11, 26, 30, 17, 5), np.float32)  # by plan
TERM_DAYS = np.array((1, 365, 730))  # by contract
MAY_BE_MISSING = (
    "age_years",
    "data_used_gb",
    "call_minutes",
    "usage_trend",
    "days_since_login",
    "last_satisfaction",
    "days_to_contract_end",
    "acquisition_channel",
)


def draw_features(draws: Draws, day: Days | int) -> dict[str, pa.Array]:
    """Draw the features of customers as they stand on `day` (one, or int64 [rows]).

    Numbers are int32 or float64, categories dictionary<int8, string>; null is missing.
    """
    age = 18 + 72 / (1 + np.exp(0.6 - draws.normal()))
    group = (age >= 30).astype(np.int8) + (age >= 60).astype(np.int8)
    tenure = np.minimum(draws.exponential() * (12 + 0.7 * age), np.minimum(12 * (age - 17.5), 420))
    plan = draws.code(PLAN_SHARES, group)
    plan[(tenure > 90) & draws.flag(0.16)] = PLANS.index("legacy")
    contract = draws.code(CONTRACT_SHARES, group)
    payment = draws.code(PAYMENT_SHARES, group)
    region = draws.code(REGION_SHARES)
    unattributed = draws.flag(np.where(tenure > 100, np.float32(0.2), np.float32(0.03)))
    return {
        "tenure_months": _whole(tenure),
        "age_years": _whole(age, missing=draws.flag(0.05)),
        **_bill(draws, tenure, plan, contract, payment),
        **_usage(draws, age, tenure, plan, day),
        **_service(draws, region),
        "days_to_contract_end": _days_to_contract_end(draws, tenure, contract, day),
        "plan": _words(plan, PLANS),
        "contract": _words(contract, CONTRACTS),
        "payment_method": _words(payment, PAYMENTS),
        "region": _words(region, REGIONS),
        "acquisition_channel": _words(draws.code(CHANNEL_SHARES, group), CHANNELS, missing=unattributed),
        "device_brand": _words(draws.code(BRAND_SHARES, group), BRANDS + NEW_BRANDS),
    }


def _bill(draws: Draws, tenure: Reals, plan: Codes, contract: Codes, payment: Codes) -> dict[str, pa.Array]:
    """Draw what is paid and how punctually: discounts come with a term, lateness with cash and invoices."""
    extra = np.floor(draws.exponential() * np.where(plan == PLANS.index("family"), np.float32(1.4), np.float32(0.7)))
    products = np.minimum(1 + extra, 12)
    discounted = draws.flag(np.array((0.18, 0.45, 0.6), np.float32)[contract])
    discount = np.where(discounted, np.minimum(np.round(0.05 + 0.16 * draws.exponential(), 2), 0.7), 0)
    price = LIST_PRICES[plan] * np.exp(0.22 * draws.normal()) + 7 * (products - 1)
    careless = np.array((0.18, 0.1, 0.5, 0.25, 0.9), np.float32)[payment] * draws.exponential()
    late = np.minimum(np.floor(careless * draws.exponential() * 3), np.minimum(tenure, 12))
    return {
        "monthly_charge": _real(np.minimum(price * (1 - discount), 1000), 2),
        "discount_share": _real(discount, 2),
        "products_held": _whole(products),
        "late_payments_12m": _whole(late),
    }


def _usage(draws: Draws, age: Reals, tenure: Reals, plan: Codes, day: Days | int) -> dict[str, pa.Array]:
    """Draw how the service is used. Data grow and shrink by a sixth over three years; new customers have no trend."""
    unmetered = draws.flag(0.025)
    wave = np.float32(1 / 6) * np.sin(2 * np.pi * np.asarray(day) / 1096).astype(np.float32)
    appetite = draws.normal()
    data = TYPICAL_DATA_GB[plan] * np.exp(0.9 * appetite + 0.012 * (45 - age) + wave)
    data[draws.flag(np.where(age > 65, np.float32(0.3), np.float32(0.04)))] = 0
    calls = np.exp(4.6 + 0.9 * draws.normal() + 0.25 * appetite + 0.008 * (age - 45))
    calls[draws.flag(0.06)] = 0
    trend = np.tanh(0.28 * draws.normal() - 0.02)
    login = np.minimum(np.exp(1.9 + 1.3 * draws.normal() - 0.4 * appetite), np.minimum(30.4 * tenure + 1, 3650))
    return {
        "data_used_gb": _real(np.minimum(data, 5000), 2, missing=unmetered),
        "call_minutes": _real(np.minimum(calls, 40_000), 1, missing=unmetered),
        "usage_trend": _real(trend, 3, missing=unmetered | (tenure < 3)),
        "days_since_login": _whole(login, missing=draws.flag(np.where(age > 60, np.float32(0.35), np.float32(0.12)))),
    }


def _service(draws: Draws, region: Codes) -> dict[str, pa.Array]:
    """Draw outages, the tickets that they cause, and what is answered when half of the customers are asked."""
    islands = region == REGIONS.index("islands")
    hit = draws.flag(np.where(islands, np.float32(0.5), np.float32(0.22)))
    outage = np.where(hit, 6 * draws.exponential() * np.exp(0.6 * draws.normal()), 0)
    trouble = draws.normal()
    tickets = np.floor(draws.exponential() * np.exp(0.6 * trouble + 0.03 * np.minimum(outage, 40) - 0.35))
    satisfaction = (
        8.2 + 1.7 * draws.normal() - 0.9 * trouble - 0.05 * np.minimum(outage, 40) - 0.3 * np.minimum(tickets, 6)
    )
    return {
        "tickets_90d": _whole(np.minimum(tickets, 500)),
        "outage_hours_30d": _real(np.minimum(outage, 720), 1),
        "last_satisfaction": _whole(np.clip(satisfaction + 0.5, 0, 10), missing=draws.flag(0.45)),
    }


def _days_to_contract_end(draws: Draws, tenure: Reals, contract: Codes, day: Days | int) -> pa.Array:
    """Draw the rest of the term: what tenure leaves of the first, any day of a later one; null where there is none."""
    term = TERM_DAYS[contract]
    served = (tenure * np.float32(30.44)).astype(np.int64)
    renewed = (draws.whole(730) - day) % term
    return _whole(np.where(served < term, term - served, renewed), missing=contract == CONTRACTS.index("monthly"))


def _whole(values: npt.NDArray[np.generic], missing: Flags | None = None) -> pa.Array:
    return pa.array(values.astype(np.int32), mask=missing)


def _real(values: Reals, decimals: int, missing: Flags | None = None) -> pa.Array:
    return pa.array(np.round(values.astype(np.float64), decimals), mask=missing)


def _words(codes: Codes, values: tuple[str, ...], missing: Flags | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), pa.array(values))
