"""What BentoML imports, as `bento.app:service`: the service of the model in `TANDEM_MODEL_FOLDER`, behind its gate.

Inside a Bento that is the folder `model/` beside this package. Loading the model at import is BentoML's own way.
"""

from functools import partial

from backends.settings import Settings
from bento.guard import gate
from bento.observing.logs import configure
from bento.observing.watcher import REST
from bento.open_inference.lane import GrpcLane
from bento.service import make_service

configure(Settings())
service = make_service(Settings().model_folder)
rules = gate.install(Settings(), service.predictor.contract, partial(service.watcher.refused, REST))
service.lanes.append(GrpcLane(service.inference, Settings(), rules, shared=service.config.get("workers") != 1))
