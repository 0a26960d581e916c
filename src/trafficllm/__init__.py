"""TrafficLLM: adapt any open LLM to network traffic."""

__version__ = "0.1.0"
