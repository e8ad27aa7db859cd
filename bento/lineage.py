"""Where a served model comes from: the file that lies beside the ONNX bytes in every Bento."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ModelFileError

MODEL_FILE = "model.onnx"
LINEAGE_FILE = "lineage.json"


class Lineage(BaseModel):
    """The facts of one model version. `sha256` is the digest of its ONNX file; further facts are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    model: str
    version: str
    sha256: str
    dagster_run_id: str = ""
    mlflow_run_id: str = ""
    training_snapshot: str = ""  # Iceberg snapshot id of the examples
    population_snapshot: str = ""  # and of the population as it stood then
    metrics: dict[str, float] = {}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `lineage.json` of a model's folder; `ModelFileError` when it is missing or says too little."""
        path = folder / LINEAGE_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelFileError(
                f"{path} does not say which model this is: {error}. Build the Bento again, or set TANDEM_MODEL_FOLDER."
            ) from error

    def write(self, folder: Path) -> None:
        """Write `lineage.json` into a model's folder."""
        (folder / LINEAGE_FILE).write_text(self.model_dump_json(indent=2) + "\n")
