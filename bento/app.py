"""What BentoML imports, as `bento.app:service`: the service of the model in `TANDEM_MODEL_FOLDER`.

Inside a Bento that is the folder `model/` beside this package. Loading the model at import is BentoML's own way.
"""

from backends.settings import Settings
from bento.service import make_service

service = make_service(Settings().model_folder)
