"""Ways to turn a champion into a published table: ours, its kernel alone, and what teams write without it.

Each function prepares, and returns the run that is measured; the run returns how many rows it handled.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from backends.batch_scoring import population_plan
from backends.lakehouse.catalog import Lakehouse
from benchmarks.batch_home import ABSENT, MODEL, BatchHome
from benchmarks.rounds import Run, System
from demo.lake import CUSTOMERS
from models.declaration import Declaration
from models.encoding import encode_arrow

THREADS = 2


def asset(folder: Path, precision: str) -> Run:
    """Run the Gold table's asset: scan, score, write, audit, publish, and what Dagster shows of it."""
    import dagster as dg

    from assets.predictions import predictions
    from assets.resources import Backends

    home = BatchHome(folder)
    made, backends = predictions(home.declaration(precision)), Backends(home.settings(precision))
    instance = dg.DagsterInstance.ephemeral()  # a run finds one there

    def run() -> int:
        day = datetime.now(UTC).date().isoformat()
        with dg.build_asset_context(partition_key=day, instance=instance) as context:
            *checks, result = made(context, backends=backends)
        assert all(check.passed for check in checks)
        return int(result.metadata["dagster/partition_row_count"])

    return run


def kernel(folder: Path, precision: str) -> Run:
    """Run the ONNX session alone, on numbers and codes that are in memory: the limit."""
    home = BatchHome(folder)
    scorer = home.scorer(precision)
    with home.lakehouse() as lake:
        plan = population_plan(lake, scorer.contract, CUSTOMERS, None)
        rows = [encode_arrow(scorer.contract, batch) for batch in plan.stream()]

    def run() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(map(len, pool.map(scorer.score, rows)))

    return run


def pandas_sklearn(folder: Path) -> Run:
    """Read everything into a frame, predict, append: what most teams write."""
    home = BatchHome(folder)
    pipeline, declaration = pickle.loads(home.pipeline.read_bytes()), home.declaration("int8")
    words = _words(declaration)

    def run() -> int:
        with home.lakehouse() as lake:
            frame = lake.load(CUSTOMERS).scan().to_pandas()
            frame[words] = frame[words].fillna(ABSENT)
            scores = pipeline.predict_proba(frame[list(declaration.features)])[:, 1]
            return _append(lake, "gold.by_pandas", pa.array(frame[declaration.entity_key]), scores)

    return run


def onnx_converter(folder: Path) -> Run:
    """Stream through the same pipeline as skl2onnx converts it, onnxruntime with two threads."""
    import onnxruntime as ort

    home = BatchHome(folder)
    declaration, options = home.declaration("int8"), ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(home.converted.read_bytes(), options, providers=["CPUExecutionProvider"])
    output, words = session.get_outputs()[1].name, _words(declaration)

    def feed(batch: pa.RecordBatch) -> dict[str, Any]:
        numbers = {
            name: batch.column(name).cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
            for name in declaration.features
            if name not in words
        }
        texts = {name: batch.column(name).fill_null(ABSENT).to_numpy(zero_copy_only=False) for name in words}
        return {name: values.reshape(-1, 1) for name, values in (numbers | texts).items()}

    def run() -> int:
        with home.lakehouse() as lake:
            plan = lake.plan(CUSTOMERS, [declaration.entity_key, *declaration.features])
            keys, scores = [], []
            for batch in plan.stream():
                keys.append(batch.column(declaration.entity_key))
                scores.append(session.run([output], feed(batch))[0][:, 1])
            return _append(lake, "gold.by_converter", pa.chunked_array(keys), np.concatenate(scores))

    return run


def mlflow_spark_udf(folder: Path) -> Run:
    """Run it as MLflow's Spark UDF, as its documentation teaches; without an Iceberg jar it writes plain Parquet."""
    import mlflow.pyfunc
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    home = BatchHome(folder)
    declaration = home.declaration("int8")
    spark = (
        SparkSession.builder.master(f"local[{THREADS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    score = mlflow.pyfunc.spark_udf(spark, str(home.mlflow_model), result_type="array<double>", env_manager="local")
    words, out = _words(declaration), folder / "by_spark.parquet"
    columns = [f.coalesce(n, f.lit(ABSENT)).alias(n) if n in words else f.col(n) for n in declaration.features]

    def run() -> int:
        with home.lakehouse() as lake:
            plan = lake.plan(CUSTOMERS)
        population = spark.read.parquet(*{file.address for file in plan.files})
        scored = population.select(declaration.entity_key, score(f.struct(*columns))[1].alias("churn_probability"))
        scored.write.mode("overwrite").parquet(str(out))
        return plan.snapshot.rows

    return run


SYSTEMS: dict[str, System] = {
    "tandem-int8": partial(asset, precision="int8"),
    "tandem-float": partial(asset, precision="float32"),
    "kernel": partial(kernel, precision="int8"),
    "kernel-float": partial(kernel, precision="float32"),
    "onnx-converter": onnx_converter,
    "pandas+sklearn": pandas_sklearn,
    "mlflow-spark_udf": mlflow_spark_udf,
}


def _words(declaration: Declaration) -> list[str]:
    return [name for name, feature in declaration.features.items() if feature.kind == "category"]


def _append(lake: Lakehouse, table: str, keys: pa.Array | pa.ChunkedArray, scores: Any) -> int:
    rows = pa.table({"customer_id": keys, f"{MODEL}_probability": pa.array(scores, pa.float64())})
    lake.catalog.create_namespace_if_not_exists("gold")
    lake.catalog.create_table_if_not_exists(table, rows.schema).append(rows)
    return len(rows)
