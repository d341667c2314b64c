"""Decides which run of an output readers take: the gate, the decisions of people, and ``latest.json``."""
