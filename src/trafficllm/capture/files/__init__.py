"""Capture containers: pcap and pcapng in and out, compressed or not."""
