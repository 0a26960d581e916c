"""Learning, quickstart and reports: the rooms put to work."""
