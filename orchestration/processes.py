"""The long-running programs: Dagster's UI and daemon, MLflow's pages, the APIs. One Ctrl-C stops all of them."""

import os
import shlex
import sys
from pathlib import Path

from backends.settings import ROOT, Settings
from models.declaration import load_declarations
from models.errors import TandemError
from orchestration.home import prepare

UI_PORT = 3000
MLFLOW_PORT = 5000


def addresses(settings: Settings) -> dict[str, str]:
    """Return where everything answers, by name."""
    models = load_declarations(settings.models)
    apis = {f"{model.name} API": settings.url_of_api(model.name, model.api.port) for model in models}
    return {"Dagster": f"http://127.0.0.1:{UI_PORT}", "MLflow": settings.mlflow_ui, **apis}


def run_all(settings: Settings) -> int:
    """Run everything until Ctrl-C; return the exit code. An API whose Bento is not built yet is left out, and said."""
    from honcho.manager import Manager

    environment, manager = {**os.environ, **prepare(settings)}, Manager()
    for name, command in _tools(settings).items():
        manager.add_process(name, shlex.join(command), env=environment, cwd=str(ROOT))
    for name, port in ((m.name, m.api.port) for m in load_declarations(settings.models)):
        try:
            command, own = api_command(settings, name, port)
        except TandemError as error:
            print(f"{name} API is left out: {error}")
            continue
        manager.add_process(f"api-{name}", shlex.join(command), env=own, cwd=str(ROOT))
    manager.loop()
    return int(manager.returncode or 0)


def api_command(settings: Settings, model: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a model's newest Bento; `TandemError` when none is built."""
    from bento.building.build import find_bento
    from bento.serve import serve_command

    return serve_command(find_bento(settings.bentoml_home, model), settings, port)


def _tools(settings: Settings) -> dict[str, list[str]]:
    programs, workspace = Path(sys.executable).parent, str(ROOT / "workspace.yaml")
    mlflow = [str(programs / "mlflow"), "server", "--backend-store-uri", settings.mlflow, "--host", "127.0.0.1"]
    artifacts = ["--default-artifact-root", settings.mlflow_artifacts] if settings.mlflow_artifacts else []
    ui = [str(programs / "dagster-webserver"), "-w", workspace, "-h", "127.0.0.1", "-p", str(UI_PORT)]
    tools = {"dagster": ui, "daemon": [str(programs / "dagster-daemon"), "run", "-w", workspace]}
    embedded = settings.mlflow.startswith("sqlite")
    return tools | ({"mlflow": [*mlflow, "--port", str(MLFLOW_PORT), "--workers", "1", *artifacts]} if embedded else {})
