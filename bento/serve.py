"""How a built Bento is started: the command and its environment, for the command line, the tests and the docs."""

import os
import sys

from backends.settings import QUIET, Settings
from bento.building.build import BuiltBento

# What these settings begin with.
OF_A_SERVICE = ("access_", "api_", "grpc_", "log_", "otlp_", "request_", "tls_", "trace_")


def serve_command(
    bento: BuiltBento, settings: Settings, port: int, host: str = "127.0.0.1"
) -> tuple[list[str], dict[str, str]]:
    """Return arguments and whole environment of the process that serves `bento`; SIGTERM stops it.

    The code and the model are those in the Bento, whatever is installed or set here; the online store, the keys and the
    limits are the settings'.
    """
    # -P: this folder is not searched for modules, so the Bento's own are found
    arguments = [sys.executable, "-P", "-m", "bento.supervisor", str(bento.path), "--host", host, "--port", str(port)]
    own = {
        "PYTHONPATH": str(bento.path / "src"),
        "BENTOML_HOME": str(settings.bentoml_home / "serving" / str(port)),
        "TANDEM_HOME": str(settings.home),
        "TANDEM_ONLINE_STORE": settings.online,
        "TANDEM_MODEL_FOLDER": str(bento.model_folder),
    }
    given = {
        f"TANDEM_{name.upper()}": str(getattr(settings, name))
        for name in settings.model_fields_set
        if name.startswith(OF_A_SERVICE) and getattr(settings, name) is not None
    }
    return arguments, {**os.environ, **QUIET, **given, **own}
