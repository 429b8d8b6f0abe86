"""Generation of trajectory datasets from chaotic dynamical systems."""
