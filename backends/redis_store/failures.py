"""From what Redis says, or that it is silent, to the domain's errors. They name no host: the API shows them to all."""

from backends.redis_store.wire import LostError, RefusedError
from models.errors import StoreUnavailableError

REMEDIES = {
    "ASK": "Redis Cluster is not supported: name a single server.",
    "MOVED": "Redis Cluster is not supported: name a single server.",
    "CROSSSLOT": "Redis Cluster is not supported: name a single server.",
    "LOADING": "Redis is reading its files: wait until it has them.",
    "NOAUTH": "Put user and password into TANDEM_ONLINE_STORE.",
    "NOPERM": "Allow its user all keys that begin with tandem: and the commands of docs/online-store.md.",
    "OOM": "Its memory is full: raise maxmemory. A load needs room for the old and the new vectors.",
    "READONLY": "It is a replica: name the primary.",
    "WRONGPASS": "Check user and password in TANDEM_ONLINE_STORE.",
}
CHECK = "Check the Redis that TANDEM_ONLINE_STORE names."


def explained(model: str, failure: LostError | RefusedError) -> StoreUnavailableError:
    """Return a failure of Redis as an error of the store, which may be shown to anybody."""
    if isinstance(failure, RefusedError):
        what, remedy = f"refuses with {failure.code}", REMEDIES.get(failure.code, CHECK)
    else:
        what, remedy = f"does not answer: {failure}", CHECK
    return StoreUnavailableError(f"The online store of {model} {what}. {remedy}")
