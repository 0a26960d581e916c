"""The public names as type checkers see them: at run time each is opened when first used."""

from trafficllm.surface.classifier import TrafficClassifier as TrafficClassifier
from trafficllm.surface.flows_api import Flows as Flows
from trafficllm.surface.flows_api import Verdicts as Verdicts
from trafficllm.surface.python_api import analyze as analyze
from trafficllm.surface.python_api import read as read
from trafficllm.surface.python_api import register as register

__version__: str
