"""How a built Bento is started: the command and its environment, for the command line, the tests and the docs."""

import os
import sys

from backends.settings import QUIET, Settings
from bento.build import BuiltBento


def serve_command(
    bento: BuiltBento, settings: Settings, port: int, host: str = "127.0.0.1"
) -> tuple[list[str], dict[str, str]]:
    """Return arguments and whole environment of the process that serves `bento`; SIGTERM stops it.

    The code and the model are those in the Bento, whatever is installed or set here; the online store is the settings'.
    """
    arguments = [sys.executable, "-m", "bentoml", "serve", str(bento.path), "--host", host, "--port", str(port)]
    own = {
        # A starting service empties the metrics folder in BentoML's home: each needs a home of its own.
        "BENTOML_HOME": str(settings.bentoml_home / "serving" / str(port)),
        "TANDEM_HOME": str(settings.home),
        "TANDEM_ONLINE_STORE": settings.online,
        "TANDEM_MODEL_FOLDER": str(bento.model_folder),
    }
    return arguments, {**os.environ, **QUIET, **own}
