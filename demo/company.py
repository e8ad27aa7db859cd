"""A company that lives in weeks: its customers, its calendar, and the jobs that run in it.

Each week is one day of the company: its customers are written as they stand, what is known by then of earlier ones
becomes examples, and the real jobs score, publish and watch. The sensor that asks for trainings is evaluated as
Dagster's daemon would; only the cool-down is counted here, in days of the company.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.metadata import table_key
from assets.resources import Backends
from backends.engines import LocalEngine
from backends.gold_tables import PARTITION
from backends.lakehouse.reading import partition_is
from backends.settings import Settings
from demo.churn_process import expected_auc, expected_auc_of
from demo.lake import CUSTOMERS, EXAMPLES, write_chunks
from demo.living_population import Campaign, known_outcomes, living_customers, living_probability, newest_known_day
from demo.population import CHUNK_ROWS, Chunk
from demo.weeks_report import Week
from models.declaration import load_declaration
from models.encoding import encode_arrow
from models.scoring import Scorer, Scores
from orchestration.definitions import assemble
from orchestration.progress import Stages
from orchestration.runs import run_job, succeeded

MODEL = "churn"
WEEK = timedelta(days=7)
FIRST_DAY = date(2026, 1, 5)  # a calendar of its own: the same weeks whenever they are lived
CALM_WEEKS = 4  # before the campaign
LEARNED_WEEKS = 8  # of outcomes: what the examples table holds
KNOWN_SHARE = 0.15  # of a week's customers whose outcome is recorded
COOLDOWN = timedelta(days=14)
STAGES = ("training_set", "trained_model", "quantized_model", "champion")


@dataclass
class Company:
    """Its home, its customers, its calendar, and what has happened so far."""

    settings: Settings
    stages: Stages
    rows: int
    seed: int
    weeks: list[Week] = field(default_factory=list)
    asked_on: date | None = None  # when a training was asked for last
    outcomes: dict[date, pa.Table] = field(default_factory=dict)  # that are known, by the day of the prediction

    def __post_init__(self) -> None:
        self.campaign = Campaign(FIRST_DAY + CALM_WEEKS * WEEK)
        self.chunk = Chunk(0, self.rows)
        self.declaration = load_declaration(self.settings.models / f"{MODEL}.yaml")
        self.backends = Backends(self.settings)
        self.engine = LocalEngine(self.settings.threads)
        self.definitions = assemble(self.settings, loggers={"console": self.stages.logger()})
        self.instance = dg.DagsterInstance.get()

    def live(self, week: int) -> Week:
        """Let one week pass."""
        day = FIRST_DAY + week * WEEK
        with self.stages.stage(f"week {week + 1:>2}, {day}"):
            customers = self.write_tables(day)
            if week == 0:
                succeeded(self.train({}))
            self.score(day)
            watched = self.watch(day)
            found = self.measure(week, day, customers, watched)
            self.weeks.append(found)
            found.event = self.react(day)
        return found

    def write_tables(self, day: date) -> pa.Table:
        """Write the customers of a day, and the examples that are known by then; return the customers."""
        customers = living_customers(self.chunk, seed=self.seed, day=day, campaign=self.campaign)
        newest = newest_known_day(day, WEEK)
        examples = pa.concat_tables(self.known(newest - week * WEEK) for week in range(LEARNED_WEEKS))
        with self.backends.lakehouse() as lake:
            for table, rows in ((CUSTOMERS, customers), (EXAMPLES, examples)):
                write_chunks(lake, self.engine, table, len(rows), _slices(rows), lambda _: None)
        return customers

    def known(self, day: date) -> pa.Table:
        """Return what came of some of a day's customers."""
        if day not in self.outcomes:
            found = known_outcomes(self.chunk, seed=self.seed, day=day, campaign=self.campaign, share=KNOWN_SHARE)
            self.outcomes[day] = found
        return self.outcomes[day]

    # --- jobs ---------------------------------------------------------------------------------------------------

    def train(self, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
        """Run the training job as far as the champion; a Bento is of no use here."""
        keys = [dg.AssetKey([MODEL, stage]) for stage in STAGES]
        return run_job(self.definitions, self.instance, f"{MODEL}_training", stages=keys, tags=tags)

    def score(self, day: date) -> None:
        """Run the night as far as the Gold table."""
        keys = [table_key(self.declaration.predictions_table)]
        succeeded(run_job(self.definitions, self.instance, f"{MODEL}_nightly", day.isoformat(), keys))

    def watch(self, day: date) -> dg.ExecuteInProcessResult:
        """Look at the drift of the day, and at the outcomes that are known on it."""
        keys = [dg.AssetKey([MODEL, stage]) for stage in ("drift", "outcomes")]
        ops = {f"{MODEL}__outcomes": {"config": {"as_of": day.isoformat()}}}
        return succeeded(run_job(self.definitions, self.instance, f"{MODEL}_watch", day.isoformat(), keys, ops))

    def react(self, day: date) -> str:
        """Ask the sensor whether to train, and do it; say what came of it."""
        if self.asked_on is not None and day - self.asked_on < COOLDOWN:
            return ""
        sensor = self.definitions.resolve_sensor_def(f"{MODEL}_retraining")
        with dg.build_sensor_context(instance=self.instance, definitions=self.definitions) as context:
            asked = sensor(context)
        if not isinstance(asked, dg.RunRequest):
            return ""
        self.asked_on = day
        done = self.train(dict(asked.tags))
        if not done.success:
            return "trained: rejected"
        facts = facts_of(done, dg.AssetKey([MODEL, "champion"]))
        promoted = str(facts["verdict"]).startswith("promoted")
        return f"trained: version {facts['model_version']} promoted" if promoted else "trained: a tie"

    # --- what only the company's maker knows ----------------------------------------------------------------------

    def measure(self, week: int, day: date, customers: pa.Table, watched: dg.ExecuteInProcessResult) -> Week:
        """Hold the scores of a day against the truth, and put beside it what Dagster has seen."""
        truth = living_probability(customers, day, self.campaign)
        drift, outcomes = (facts_of(watched, dg.AssetKey([MODEL, stage])) for stage in ("drift", "outcomes"))
        failed = (check.check_name for check in watched.get_asset_check_evaluations() if not check.passed)
        return Week(
            number=week + 1,
            day=day,
            version=int(drift["model_version"]),
            feature=str(drift["most_shifted_feature"]).split(",")[0],
            feature_psi=float(drift["largest_feature_psi"]),
            score_psi=float(drift["score_psi"]),
            realised_auc=outcomes.get("realised_auc"),
            served_auc=expected_auc_of(self.served(day), truth),
            never_retrained_auc=expected_auc_of(self.of_the_first_version(customers), truth),
            best_possible_auc=expected_auc(truth),
            failed=frozenset(failed),
        )

    def served(self, day: date) -> Scores:
        """Return the published scores of a day, in the order of the customers."""
        columns = [self.declaration.entity_key, f"{MODEL}_probability"]
        with self.backends.lakehouse() as lake:
            rows = lake.read(self.declaration.predictions_table, columns, where=partition_is(PARTITION, day))
        scores: Scores = rows.sort_by(columns[0])[columns[1]].to_numpy()
        return scores

    def of_the_first_version(self, customers: pa.Table) -> Scores:
        """Return what version 1 says of customers."""
        registry = self.backends.registry()
        first = registry.version(MODEL, 1)
        scorer = Scorer(registry.read_version(first), first.sha256)
        return scorer.score(encode_arrow(scorer.contract, customers))


def facts_of(done: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    """Return what a run's materialization of an asset says; tables are left out."""
    (event,) = (event for event in done.get_asset_materialization_events() if event.asset_key == key)
    facts = event.materialization.metadata.items()
    return {name: fact.value for name, fact in facts if not isinstance(fact, dg.TableMetadataValue)}


def _slices(rows: pa.Table) -> Callable[[Chunk], pa.Table]:
    return lambda chunk: rows.slice(chunk.index * CHUNK_ROWS, chunk.rows)
