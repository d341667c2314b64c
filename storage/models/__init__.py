"""Versioned models: published once, found by name, and loaded completely or not at all.

This package contains the code that publishes, resolves, verifies and loads models, but not the code that scores rows.
It imports `scoreline.storage.objects` and `scoreline.storage.keys`. `registry` does not need scikit-learn.
"""
