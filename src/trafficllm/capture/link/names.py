"""Names of link types (https://www.tcpdump.org/linktypes.html) and of what frames carry that are no IP (EtherTypes)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources

_TABLE = tomllib.loads(resources.files("trafficllm.capture.link").joinpath("names.toml").read_text(encoding="utf-8"))
LINK_NAMES: Mapping[int, str] = {int(number): name for number, name in _TABLE["links"].items()}
"""LINKTYPE_ number -> name, as captures carry it."""
_ETHERTYPES: Mapping[int, str] = {int(number, 16): name for number, name in _TABLE["ethertypes"].items()}
_LLC_BELOW = 0x0600
"""An EtherType field below this is a length (IEEE 802.3): LLC follows, spanning tree and Cisco's discovery most often."""


def link_name(link: int) -> str:
    """Name of a LINKTYPE_ number, or the number itself.

    >>> link_name(258), link_name(9999)
    ('PKTAP', '9999')
    """
    return LINK_NAMES.get(link, str(link))


def carried_name(ethertype: int) -> str:
    """What a frame that is no IP carries, by its EtherType.

    >>> carried_name(0x0806), carried_name(38), carried_name(0x9999)
    ('ARP', 'LLC (802.3)', 'EtherType 0x9999')
    """
    if ethertype < _LLC_BELOW:
        return "LLC (802.3)" if ethertype else "no EtherType"
    return _ETHERTYPES.get(ethertype, f"EtherType 0x{ethertype:04x}")
