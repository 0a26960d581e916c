"""What `adapter export --for vllm` writes beside the LoRA folders, read back as a task that a remote scorer judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trafficllm.core.errors import ArtifactError
from trafficllm.core.sealed import read_sealed
from trafficllm.infer.detector import TaskModel
from trafficllm.infer.remote.client import Completions
from trafficllm.infer.remote.scorer import RemoteScorer
from trafficllm.infer.two_step import Steps
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records.catalog import Task
from trafficllm.records.coverage import Coverage
from trafficllm.records.record_shape import RecordShape
from trafficllm.registry import fit

if TYPE_CHECKING:
    from trafficllm.model.base.load import Base

FILE = "serving.json"
SCHEMA = "trafficllm.serving/1"
KEYS = (
    *("base", "base_sha256", "tokenizer_sha256", "codec", "codec_hash", "labels", "task_definition", "record", "profile", "also"),
    "kept_fields",
    "coverage",
)
"""What a client needs of a version's manifest."""


def names_of(task: str, count: int) -> tuple[str, ...]:
    """Under which names the members are loaded by the server.

    >>> names_of("MTD", 3)
    ('MTD', 'MTD.2', 'MTD.3')
    """
    return tuple(task if number == 1 else f"{task}.{number}" for number in range(1, count + 1))


def served_task(folder: str | Path, client: Completions, base: Base) -> TaskModel:
    """An exported task whose answers the client's server computes; `base` gives the tokenizer, its weights are not used.

    Raises ArtifactError, with all reasons, where the folder does not fit the base or this version's codec.
    """
    from trafficllm.records.codec.units import codec_hash

    file = Path(folder) / FILE
    body = read_sealed(file, required=True)
    try:
        fit.check(body, base.manifest, codec_hash())
        task = Task.model_validate(body["task_definition"])
        labels, calibration = tuple(map(str, body["labels"])), dict(body["calibration"])
        models = tuple(map(str, body["models"]))
        codec = RecordShape.of(body).codec()
        coverage = Coverage.of_manifest(body)
        kept, also = frozenset(body["kept_fields"]), frozenset(body["also"])
    except (KeyError, TypeError, ValueError) as error:
        hint = "export the version again"
        raise ArtifactError("artifact.damaged", f"no exported task: {error}", input=str(file), hint=hint) from error
    scorer = RemoteScorer(client, models, Encoder(base.tokenizer), task, labels=labels, calibration=calibration, codec=codec)
    return TaskModel(
        task=str(body["task"]),
        scorer=scorer,
        calibration=calibration,
        profile=str(body["profile"]),
        also=also,
        keep=kept - {"housekeeping"},
        adapter=str(body["task"]),
        version=str(body["version"]),
        steps=Steps(task, labels, None),
        coverage=coverage,
    )
