"""From the domain's errors to answers: an HTTP status and a body that names the field, its value and the remedy.

Every protocol takes its errors from here. What a caller has no part in (a path, a stack) never enters an answer.
"""

from typing import Any

from models.errors import EntityNotFoundError, OnlineStoreError, TandemError, ValueRejectedError

_STATUSES: dict[type[TandemError], int] = {
    ValueRejectedError: 422,
    EntityNotFoundError: 404,
    OnlineStoreError: 503,
}


def status_of(error: TandemError) -> int:
    """Return the HTTP status of an error: that of its nearest class, else 500."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


def body_of(error: TandemError) -> dict[str, Any]:
    """Return `{"error": {"type", "message", "fields"}}`; `fields` has each problem of a refused request."""
    problems = error.problems if isinstance(error, ValueRejectedError) else []
    fields = [{"field": p.field, "value": p.value, "message": p.message, "remedy": p.remedy} for p in problems]
    known = status_of(error) != 500
    message = str(error) if known else "The service failed. Its log says why."
    return {"error": {"type": type(error).__name__, "message": message, "fields": fields}}
