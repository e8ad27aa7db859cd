"""How an entity's features and its key become bytes in an online store, and back: pure functions, for every store.

A vector is a row of the graph's inputs with the contract's fingerprint and the event time in front.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract import Contract
from models.encoding import Encoded
from models.errors import Problem, StoreMismatchError, ValueRejectedError

NOT_A_TIME = -(2**63)  # NumPy's NaT as an integer: an unknown event time
MAX_KEY_BYTES = 511  # LMDB's own limit

Key = int | str
Keys = npt.NDArray[np.int64] | Sequence[str]
EventTimes = npt.NDArray[np.datetime64]  # datetime64[ms], UTC; NaT is unknown


@lru_cache
def _vector_dtype(numbers: int, categories: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("fingerprint", "<u8"),
            ("event_time", "<i8"),  # milliseconds since 1970-01-01 UTC
            ("numbers", "<f4", (numbers,)),
            ("categories", "<u2", (categories,)),
        ]
    )


def vector_dtype(contract: Contract) -> np.dtype[np.void]:
    """Return the layout of a packed vector, without padding: the only definition, for packing and for unpacking."""
    return _vector_dtype(len(contract.numbers), len(contract.categories))


def pack(contract: Contract, rows: Encoded, event_times: EventTimes | npt.NDArray[np.int64]) -> npt.NDArray[np.void]:
    """Return one vector per row. `event_times`: datetime64 of any unit, or int64 milliseconds since 1970 UTC."""
    vectors = np.empty(len(rows), vector_dtype(contract))
    vectors["fingerprint"] = int.from_bytes(contract.fingerprint, "little")
    vectors["event_time"] = np.asarray(event_times).astype("datetime64[ms]").astype(np.int64)
    vectors["numbers"] = rows.numbers
    vectors["categories"] = rows.categories
    return vectors


def unpack(contract: Contract, vectors: Sequence[bytes]) -> tuple[Encoded, EventTimes]:
    """Return rows and event times of packed vectors; `StoreMismatchError` when one is of another contract."""
    dtype = vector_dtype(contract)
    strange = next((v for v in vectors if len(v) != dtype.itemsize or v[:8] != contract.fingerprint), None)
    if strange is not None:
        raise StoreMismatchError(
            f"The online features of {contract.model} were packed for contract {strange[:8].hex()}, but the model has "
            f"contract {contract.fingerprint.hex()}. Materialize {contract.model}/online_features."
        )
    packed = np.frombuffer(b"".join(vectors), dtype)
    rows = Encoded(np.ascontiguousarray(packed["numbers"]), packed["categories"].astype(np.int32))
    return rows, packed["event_time"].astype("datetime64[ms]")


def pack_key(contract: Contract, key: Any) -> bytes:
    """Return the bytes that an entity is stored under, in the keys' own order; `ValueRejectedError` for a wrong key."""
    if contract.entity_key_type == "integer":
        if isinstance(key, bool) or not isinstance(key, int) or not -(2**63) <= key < 2**63:
            raise _rejected(contract, key, "is not a 64-bit integer", "Give a whole number.")
        return (key + 2**63).to_bytes(8, "big")
    if not isinstance(key, str):
        raise _rejected(contract, key, "is not a text", "Give the key as a text.")
    packed = key.encode(errors="surrogatepass")
    if not packed or len(packed) > MAX_KEY_BYTES or b"\0" in packed:
        remedy = f"Give a text of 1 to {MAX_KEY_BYTES} bytes in UTF-8."
        raise _rejected(contract, key, f"has {len(packed)} bytes or holds a NUL character", remedy)
    return packed


def sortable_keys(contract: Contract, keys: Keys) -> npt.NDArray[Any]:
    """Return a batch of keys as int64, or as the bytes of each text; either sorts as LMDB does."""
    if contract.entity_key_type == "string":
        return np.array([pack_key(contract, key) for key in keys], np.bytes_)
    array = np.asarray(keys)
    if not np.can_cast(array.dtype, np.int64):
        raise _rejected(contract, array[0].item(), f"is of type {array.dtype}", "Give 64-bit integers.")
    return array.astype(np.int64)


def packed_keys(keys: npt.NDArray[Any]) -> list[bytes]:
    """Return what `pack_key` does, for a whole array of sortable keys."""
    if keys.dtype == np.int64:
        keys = (keys.view(np.uint64) ^ np.uint64(2**63)).astype(">u8").view("V8")
    return keys.tolist()  # type: ignore[no-any-return]


def _rejected(contract: Contract, key: Any, message: str, remedy: str) -> ValueRejectedError:
    return ValueRejectedError([Problem(contract.entity_key, key, message, remedy)])
