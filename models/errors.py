"""What can go wrong, in the domain's words. Every message names the thing, its value and the remedy.

TandemError
├── DeclarationError            a declaration cannot be used; carries every problem found in it
├── ContractError               data do not fit the model's contract
│   ├── ColumnError                a column is missing or of a type that cannot be read
│   └── ValueRejectedError         a value is missing, out of bounds or of the wrong type; carries every problem
├── ModelFileError              an ONNX file is corrupt, foreign, or not the one that was asked for
├── TrainingDataError           the examples cannot train a model
├── OnboardingError             a file or a table cannot become a model as asked
├── LakehouseError              a table cannot be read or written as asked
│   ├── TableNotFoundError
│   ├── SnapshotNotFoundError
│   ├── AuditError                 staged rows failed their audit; nothing was published
│   └── PublishConflictError       somebody else moved main meanwhile; nothing was published
├── EngineError                 an engine cannot run: not installed, not answering, or it gave a task up
├── RegistryError               the registry has not what was asked for
│   ├── NoChampionError
│   └── ForeignVersionError        the champion is a version that Tandem did not register
├── PromotionError              a version cannot be made the champion as asked
│   └── PromotionConflictError     somebody else moved the champion meanwhile; nothing was moved
├── OnlineStoreError            the online store cannot answer
│   ├── EntityNotFoundError        this entity has no vector
│   ├── StoreUnavailableError      there is no store, or it does not answer
│   └── StoreMismatchError         the vectors were packed for another contract
├── ApiKeysError                API keys cannot be read, or would be needed
├── ModelNotServedError         a service was asked for a model, or a version of it, that runs elsewhere
├── OverloadedError             a service has too much to do to take this too
├── PortTakenError              a service cannot listen where it is to
├── HomeError                   the home's configuration contradicts the settings
├── ImageError                  a container image cannot be built, or is not there
├── ServiceUnreachableError     the model's API does not answer
└── LineageError                an OpenLineage collector does not take events
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which field, its value, what is wrong with it and what to do."""

    field: str
    value: Any
    message: str
    remedy: str

    def __str__(self) -> str:
        """One line for a person."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return f"{self.field}: {self.message} (value: {shown}). {self.remedy}"


class TandemError(Exception):
    """Anything that Tandem itself refuses or reports."""


class DeclarationError(TandemError):
    """A declaration cannot be used; `problems` has every error in it, not only the first."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{file} has {len(problems)} error{'s' if len(problems) > 1 else ''}:\n{lines}")


class ContractError(TandemError):
    """Data do not fit the model's contract."""


class ColumnError(ContractError):
    """A column is missing or of a type that cannot be read."""


class ValueRejectedError(ContractError):
    """Values that the contract refuses; `problems` has each of them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))


class ModelFileError(TandemError):
    """An ONNX file is corrupt, foreign, or not the one that was asked for."""


class TrainingDataError(TandemError):
    """The examples cannot train a model."""


class OnboardingError(TandemError):
    """A file or a table cannot become a model as asked."""


class LakehouseError(TandemError):
    """A table cannot be read or written as asked."""


class TableNotFoundError(LakehouseError):
    """The catalog has no such table."""


class SnapshotNotFoundError(LakehouseError):
    """The table has no such snapshot, or none at all."""


class AuditError(LakehouseError):
    """Staged rows failed their audit; nothing was published. They stay on their branch for a look."""

    def __init__(self, what: str, branch: str, problems: list[Problem]) -> None:
        self.branch = branch
        self.problems = problems
        found = "; ".join(str(problem) for problem in problems)
        super().__init__(f"{what} failed their audit and are not published; they stand on branch {branch!r}: {found}")


class PublishConflictError(LakehouseError):
    """Somebody else moved the table's main branch meanwhile; nothing was published."""


class EngineError(TandemError):
    """The engine cannot run: it is not installed, does not answer, or gave a task up."""


class RegistryError(TandemError):
    """The registry has not what was asked for."""


class NoChampionError(RegistryError):
    """No version of the model was ever promoted."""


class PromotionError(TandemError):
    """A version cannot be made the champion as asked."""


class PromotionConflictError(PromotionError):
    """Somebody else moved the champion meanwhile; nothing was moved."""


class ForeignVersionError(RegistryError):
    """The champion is a version that Tandem did not register."""


class OnlineStoreError(TandemError):
    """The online store cannot answer."""


class EntityNotFoundError(OnlineStoreError):
    """The online store has no vector for this entity; `problems` names the key, where a request asked for it."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = problems
        super().__init__(message)


class StoreUnavailableError(OnlineStoreError):
    """There is no online store, or it does not answer."""


class StoreMismatchError(OnlineStoreError):
    """The vectors were packed for another contract."""


class ApiKeysError(TandemError):
    """API keys cannot be read, or would be needed."""


class ModelNotServedError(TandemError):
    """A service was asked for a model, or a version of it, that runs elsewhere."""


class OverloadedError(TandemError):
    """A service has too much to do to take this too."""


class PortTakenError(TandemError):
    """A service cannot listen where it is to."""


class HomeError(TandemError):
    """The home's own configuration cannot be used, or contradicts the settings."""


class ImageError(TandemError):
    """A container image cannot be built, or is not there."""


class ServiceUnreachableError(TandemError):
    """The model's API does not answer."""


class LineageError(TandemError):
    """An OpenLineage collector does not take events."""
