"""A Ray cluster: one that runs already, or one of this machine's cores for the time of a command."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trafficllm import __version__
from trafficllm.core.errors import ArtifactError, ResourceError, TrafficLLMError, UsageError
from trafficllm.core.machine import cores

LOCAL = "local"
"""The address that stands for this machine."""
_AUTO = "auto"
_ADDRESS = re.compile(r"[\w.\-]+:\d+|\[[0-9A-Fa-f:]+\]:\d+")
RETRIES = 3
"""How often a task is begun again whose worker or node died; then its input is named and left out."""
_AHEAD = 4
"""Tasks waiting or running for each core of the cluster: enough that no core waits for the driver."""
_LOOPBACK = "127.0.0.2"
"""Where a cluster of this machine alone listens. Ray takes 127.0.0.1 for the machine's own address, which others reach."""
_STARTS = 2
_OBJECTS = 128 << 20
"""Bytes of the object store on this machine: tasks write their results to files and hand back some hundred bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task: `place` in the list of tasks, and its value or why it has none."""

    place: int
    value: Any = None
    failure: TrafficLLMError | None = None


def is_address(word: str) -> bool:
    """Whether a word on the command line names a cluster.

    >>> [is_address(word) for word in ("local", "auto", "192.0.2.7:6379", "a.pcap", "ray://head:10001")]
    [True, True, True, False, False]
    """
    return word in {LOCAL, _AUTO} or _ADDRESS.fullmatch(word) is not None


class Cluster:
    """Runs functions of this package as tasks. Made by `cluster`, which opens and closes the connection."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._task = ray.remote(_task).options(max_retries=RETRIES, retry_exceptions=False)

    def cpus(self) -> int:
        """Cores of the cluster now; it may grow and shrink."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def finished(
        self, work: Callable[..., Any], rows: Sequence[tuple[Any, ...]], *, shared: tuple[Any, ...] = (), weights: Sequence[int] = ()
    ) -> Iterator[Outcome]:
        """`work(*shared, *row)` for every row, each outcome as soon as it is there; heavy rows start first.

        A task whose worker or node dies is begun again `RETRIES` times. An error of our tree is an outcome, any other is raised.
        """
        order = sorted(range(len(rows)), key=lambda k: -weights[k]) if weights else list(range(len(rows)))
        constant = self._ray.put((__version__, work, shared))
        running: dict[Any, int] = {}
        at = 0
        try:
            while at < len(order) or running:
                room = _AHEAD * self.cpus() - len(running)
                for place in order[at : at + max(room, 0)]:
                    running[self._task.remote(constant, rows[place])] = place
                at += max(room, 0)
                ready, _ = self._ray.wait(list(running), num_returns=1)
                more, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
                for reference in {*ready, *more}:
                    yield self._outcome(reference, running.pop(reference))
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)

    def _outcome(self, reference: Any, place: int) -> Outcome:
        lost = (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError, self._ray.exceptions.OutOfMemoryError)
        try:
            failure, value = self._ray.get(reference)
        except lost as error:
            return Outcome(place, failure=_lost(type(error).__name__))
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, lost):
                return Outcome(place, failure=_lost(type(cause).__name__))
            raise (cause if isinstance(cause, Exception) else error) from error
        return Outcome(place, value, failure)


def _lost(kind: str) -> ResourceError:
    hint = "too little memory, or a node went away; the same command tries again what is missing"
    return ResourceError("resource.worker", f"its worker died {RETRIES + 1} times ({kind})", hint=hint)


def _task(constant: tuple[str, Callable[..., Any], tuple[Any, ...]], row: tuple[Any, ...]) -> tuple[TrafficLLMError | None, Any]:
    """What a worker runs: the function's value, or the error that names what is wrong with its input."""
    version, work, shared = constant
    if version != __version__:
        hint = "install the same version on every node"
        raise ArtifactError("artifact.version", f"trafficllm {__version__} on a node, {version} here", hint=hint)
    try:
        return None, work(*shared, *row)
    except TrafficLLMError as error:
        return error, None


@contextmanager
def cluster(address: str = LOCAL) -> Iterator[Cluster]:
    """Connect to a cluster: `local` starts one with this machine's cores, ended with the block; `auto` or HOST:PORT one that runs.

    A session that this process has already is used as it is. Nodes share the folders of inputs and outputs, and have the same version
    of this package. Raises UsageError for what is no address, ResourceError where none answers or `ray` is not installed.
    """
    if not is_address(address):
        hint = "--ray local, --ray auto or --ray HOST:PORT"
        raise UsageError("usage.ray", f"no address of a Ray cluster: '{address}'", input="--ray", hint=hint)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ResourceError("resource.extra", "ray is not installed", input="--ray", hint="`pip install 'trafficllm[ray]'`") from error
    if ray.is_initialized():
        yield Cluster()
        return
    _connect(ray, address)
    _hush()
    try:
        yield Cluster()
    finally:
        ray.shutdown()


def _hush() -> None:
    """Ray prints on stdout, between our rows, what its own processes report of a worker that died; outcomes name what failed. It has no
    setting for that; where a version of it lacks the switch, its lines stay."""
    from ray._private import worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def _connect(ray: Any, address: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray greets on stderr as a warning
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address == LOCAL:
        _start(ray, quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "start one with `ray start --head` and name its address; RAY_AUTH_MODE=token where it asks for a token"
        raise ResourceError("resource.cluster", f"no Ray cluster answers: {error}", input=f"--ray {address}", hint=hint) from error


def _start(ray: Any, quiet: dict[str, Any]) -> None:
    """Start a cluster of this machine. Ray gives its own processes 30 s, which a busy machine may need twice."""
    inside = {"_node_ip_address": _LOOPBACK} if sys.platform == "linux" else {}
    failure: Exception | None = None
    for _ in range(_STARTS):
        try:
            ray.init(address="local", num_cpus=cores(), object_store_memory=_OBJECTS, include_dashboard=False, **inside, **quiet)
        except Exception as error:  # noqa: BLE001 - Ray raises Exception itself where its processes are late
            failure = error
            ray.shutdown()
        else:
            return
    hint = "a machine too busy, or too little memory or space in /dev/shm; look into /tmp/ray/session_latest/logs"
    raise ResourceError("resource.cluster", f"Ray did not start: {failure}", input="--ray local", hint=hint) from failure
