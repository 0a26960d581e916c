"""The public names as type checkers see them: at run time each is opened when first used."""

from trafficllm.surface.python.api import analyze as analyze
from trafficllm.surface.python.api import read as read
from trafficllm.surface.python.api import register as register
from trafficllm.surface.python.classifier import TrafficClassifier as TrafficClassifier
from trafficllm.surface.python.flows import Flows as Flows
from trafficllm.surface.python.flows import Verdicts as Verdicts

__version__: str
