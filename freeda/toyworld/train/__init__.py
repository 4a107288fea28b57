"""Trains the toy world's three small models from scratch: `python -m freeda.toyworld.train`."""
