"""Engine, router, detector and generator."""
