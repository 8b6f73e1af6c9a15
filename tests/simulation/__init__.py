"""Deterministic simulation: the real pure parts among models of everything else, one seed, one history."""
