"""Logs of other sensors: Zeek, Suricata, NFStream, CICFlowMeter, IPFIX exports; as labels for flows, or as flows."""
