"""The backends as Dagster resources, opened when an asset needs them: their libraries take seconds to import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.engines import Engine, engine_of
from backends.settings import Settings

if TYPE_CHECKING:
    from backends.histories import HistoryStore
    from backends.lakehouse.catalog import Lakehouse
    from backends.online_store import OnlineStore
    from backends.registry import Registry
    from models.contract import Contract


@dataclass(frozen=True)
class Backends:
    """Opens each backend as the settings say."""

    settings: Settings

    def lakehouse(self) -> "Lakehouse":
        """Connect to the catalog; a context manager."""
        from backends.lakehouse.catalog import Lakehouse

        return Lakehouse.open(self.settings)

    def registry(self) -> "Registry":
        """Connect to MLflow."""
        from backends.registry import Registry

        return Registry.open(self.settings)

    def online_store(self, model: str) -> "OnlineStore":
        """Open the model's online store."""
        from backends.online_store import open_store

        return open_store(self.settings.online, model)

    def histories(self, contract: "Contract") -> "HistoryStore":
        """Open the histories of a model of events, in the same store."""
        from backends.histories import open_histories

        return open_histories(self.settings.online, contract)

    def engine(self) -> Engine:
        """Return the engine that maps functions over files."""
        return engine_of(self.settings)
