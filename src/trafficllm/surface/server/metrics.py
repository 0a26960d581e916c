"""Prometheus metrics of one server: counts and times by route, never by who asked or what was in it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)


class Metrics:
    """A registry of its own, so that two servers in a process (tests) do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ["route", "status"]
        self.requests = Counter("trafficllm_requests", "Requests answered.", names, registry=self.registry)
        self.seconds = Histogram("trafficllm_request_seconds", "Time a request took.", ["route"], registry=self.registry, buckets=_SECONDS)
        self.inside = Gauge("trafficllm_requests_inside", "Requests working or waiting.", registry=self.registry)
        self.flows = Counter("trafficllm_flows", "Verdicts given.", ["task"], registry=self.registry)
        self.refused = Counter("trafficllm_refused", "Requests refused at the door.", ["why"], registry=self.registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
