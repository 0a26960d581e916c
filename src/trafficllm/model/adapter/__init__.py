"""Adapters on a base: LoRA layers, the readout beside them, and the guard in front of both."""
