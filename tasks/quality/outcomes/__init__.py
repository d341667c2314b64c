"""Compares scores with what happened: a target that is known, or labels that arrive later."""
