"""Versioned models: published once, found by name, and loaded completely or not at all.

This package publishes, resolves, verifies and loads models. It does not score rows. The package may import
`scoreline.storage.objects` and `scoreline.storage.keys`. The module `registry` does not need scikit-learn.
"""
