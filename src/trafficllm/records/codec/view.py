"""What a generator learns of a flow, and what generated flows are compared with real ones by: headers shown, identifiers not.

Verdicts must not lean on TTL, windows and ports; a capture without them fools nobody. So the strict masks are kept for
all that names an endpoint, a session or a moment, and the headers stay: TTL, window, the service's port.
"""

from __future__ import annotations

from dataclasses import replace

from trafficllm.capture.compile.ports import claimed, port_class
from trafficllm.capture.flows.conn import likely_servers
from trafficllm.core.types import Record
from trafficllm.records import masks

SHOWN = frozenset({"ttl", "window_value", "ports"})
"""Fields that `strict` hides and a generated flow has to have."""
STAND_INS = {"w": 1, "r": 1024, "e": 49152}
"""First port of each class: written where the port itself says nothing, or would name one host's moment."""
_TRANSPORTS = {6: "tcp", 17: "udp"}


def shown(record: Record) -> Record:
    """The record as generators see it: identifiers hidden and zeroed, the originator's port as its class, the responder's as it is
    where it names a service.

    >>> shown(Record(proto=6, ports=(50123, 443), dirs=(0,), sizes=(5,), iats=(0,), flags=(24,), ttls=(64,), windows=(501,))).ports
    (49152, 443)
    """
    record = masks.wiped(masks.apply(record, "strict", keep=SHOWN))
    if record.ports is None:
        return record
    orig, resp = record.ports
    return replace(record, ports=(STAND_INS[port_class(orig)], resp if _is_service(record.proto, resp) else STAND_INS[port_class(resp)]))


def _is_service(proto: int, port: int) -> bool:
    """Well-known ports, and those that Zeek or Wireshark know a protocol by."""
    if port < 1024:
        return True
    transport = _TRANSPORTS.get(proto, "")
    return bool(transport) and (port in claimed(transport) or bool(likely_servers()[int(transport == "udp"), port]))


def stands_in(port: int) -> str:
    """The class that a stand-in port means, or "" for a port that is meant."""
    return next((name for name, low in STAND_INS.items() if low == port), "")
