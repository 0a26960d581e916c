"""Adapters learnt, registered, updated, gated and looked after."""
