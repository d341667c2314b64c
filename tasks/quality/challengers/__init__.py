"""Compares two model versions on the same rows, and decides whether an alias may move."""
