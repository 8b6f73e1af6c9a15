"""Anything at all at a gateway's entrances."""
