"""From the domain's errors to answers: an HTTP status and a body that names the field, its value and the remedy.

Every protocol takes its errors from here. What a caller has no part in (a path, a stack) never enters an answer.
"""

from collections.abc import Sequence
from typing import Any

from models.errors import (
    EntityNotFoundError,
    ModelNotServedError,
    OnlineStoreError,
    OverloadedError,
    Problem,
    TandemError,
    ValueRejectedError,
)

MOST_PROBLEMS = 100  # that one answer names; a body of a megabyte may have a hundred thousand
RETRY_AFTER_SECONDS = 1  # said with every 503: a store is looked for again at each request

_STATUSES: dict[type[TandemError], int] = {
    ValueRejectedError: 422,
    EntityNotFoundError: 404,
    ModelNotServedError: 404,
    OnlineStoreError: 503,
    OverloadedError: 503,
}


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error: that of its nearest class, else 500."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


def body_of(error: BaseException) -> dict[str, Any]:
    """Return `{"error": {"status", "type", "message", "fields"}}`; `fields` has the problems of a refused request.

    Of more than `MOST_PROBLEMS` the first are named, and how many there are.
    """
    status = status_of(error)
    if status == 500:
        return _body(500, "ServiceError", "The service failed. Its log says why. Try again, or ask whoever runs it.")
    problems = list(error.problems) if isinstance(error, ValueRejectedError | EntityNotFoundError) else []
    if len(problems) <= MOST_PROBLEMS:
        return _body(status, type(error).__name__, str(error), problems)
    first = problems[:MOST_PROBLEMS]
    message = f"{ValueRejectedError(first)} ({len(problems)} problems, the first {MOST_PROBLEMS}.)"
    return _body(status, type(error).__name__, message, first)


def refusal(status: int, kind: str, problem: Problem) -> dict[str, Any]:
    """Return the same body for what is refused before the model is asked: a path, a header, a key, a length."""
    return _body(status, kind, str(problem), [problem])


def _body(status: int, kind: str, message: str, problems: Sequence[Problem] = ()) -> dict[str, Any]:
    fields = [{"field": p.field, "value": p.value, "message": p.message, "remedy": p.remedy} for p in problems]
    return {"error": {"status": status, "type": kind, "message": message, "fields": fields}}
