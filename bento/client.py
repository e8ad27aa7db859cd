"""A client of one model's running service, for the parity check and the command line. Errors are the domain's own."""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from backends.settings import Settings
from models.errors import (
    ContractError,
    EntityNotFoundError,
    OnlineStoreError,
    OverloadedError,
    ServiceUnreachableError,
    TandemError,
)

_ERRORS: dict[str, type[TandemError]] = {
    "ValueRejectedError": ContractError,
    "EntityNotFoundError": EntityNotFoundError,
    "OnlineStoreError": OnlineStoreError,
    "StoreUnavailableError": OnlineStoreError,
    "StoreMismatchError": OnlineStoreError,
    "OverloadedError": OverloadedError,
    "Overloaded": OverloadedError,
}


class ApiClient:
    """One kept-alive connection to a service. `timeout` is in seconds, for each request.

    `key` is an API key, for a service that asks for one; by default it is that of the settings. With a `request_id`
    every request carries it.

    Every method raises `ServiceUnreachableError` when the service does not answer, or not as one of ours would;
    `EntityNotFoundError`, `ContractError`, `OnlineStoreError` and `OverloadedError` when it answers with them.
    """

    def __init__(self, url: str, timeout: float = 5.0, key: SecretStr | None = None, request_id: str = "") -> None:
        self.url = url.rstrip("/")
        secret = (key or Settings().api_key).get_secret_value()
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        headers |= {"X-Request-ID": request_id} if request_id else {}
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout, headers=headers)
        except httpx.InvalidURL as error:
            raise ServiceUnreachableError(
                f"{url} is no address of a service ({error}). Give one like http://127.0.0.1:3001."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def lineage(self) -> dict[str, Any]:
        """Return where the served model and its online features come from."""
        lineage = self._call("GET", "/lineage")
        if not {"model", "version", "sha256"} <= lineage.keys():
            raise ServiceUnreachableError(
                f"GET {self.url}/lineage was answered, but not by a Tandem service: it names no model, version and "
                "sha256. Check that TANDEM_API_URL is the address of the model's service."
            )
        return lineage

    def counters(self) -> dict[str, float]:
        """Return what the service has counted since it began: the samples of `/metrics`, summed over their labels."""
        from prometheus_client.parser import text_string_to_metric_families

        response, totals = self._request("GET", "/metrics"), dict[str, float]()
        with suppress(ValueError):
            for sample in (s for family in text_string_to_metric_families(response.text) for s in family.samples):
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        if "tandem_cpu_seconds_total" not in totals:
            raise self._no_service_of_ours("GET", "/metrics", response, "no metrics")
        return totals

    def ready(self) -> None:
        """Have the service go the way of a request: `OnlineStoreError` when it could not answer one."""
        self._call("GET", "/readyz")

    def datatypes(self, model: str) -> dict[str, str]:
        """Return what a request may have, by name: the datatypes of the Open Inference Protocol."""
        metadata = self._call("GET", f"/v2/models/{model}")
        try:
            return {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        except (TypeError, KeyError) as error:
            raise ServiceUnreachableError(
                f"GET {self.url}/v2/models/{model} was answered, but not by a Tandem service: it names no inputs. "
                "Check that TANDEM_API_URL is the address of the model's service."
            ) from error

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request: an entity key, `features`, or both; with `reasons` it says why."""
        return self._call("POST", "/predict", json=body)

    def predict_many(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any] | TandemError]:
        """Return the answer to each row, in their order: what `predict` would return, or what it would raise."""
        answer = self._call("POST", "/predict_many", json={"rows": list(rows)})
        shared = {name: value for name, value in answer.items() if name not in ("predictions", "errors")}
        return [_error_of(one["error"]) if "error" in one else shared | one for one in answer["predictions"]]

    def _call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = self._request(method, path, **content)
        try:
            answer = response.json()
            if not isinstance(answer, dict):
                raise TypeError(f"{type(answer).__name__} in place of an object")
            if response.status_code == httpx.codes.OK:
                return answer
            error_of_service = _error_of(answer["error"])
        except (ValueError, TypeError, KeyError) as error:
            raise self._no_service_of_ours(method, path, response, "no JSON") from error
        raise error_of_service

    def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise ServiceUnreachableError(
                f"The service at {self.url} does not answer ({type(error).__name__}). Start it with `make serve`, "
                "or set TANDEM_API_URL to where it runs."
            ) from error

    def _no_service_of_ours(self, method: str, path: str, response: httpx.Response, lacks: str) -> TandemError:
        return ServiceUnreachableError(
            f"{method} {self.url}{path} was answered with status {response.status_code} and {lacks} of a Tandem "
            "service. Check that TANDEM_API_URL is the address of the model's service."
        )


def _error_of(error: dict[str, Any]) -> TandemError:
    return _ERRORS.get(error["type"], ServiceUnreachableError)(error["message"])
