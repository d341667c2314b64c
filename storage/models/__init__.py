"""Versioned models: published once, resolved by name, and loaded completely or not at all.

Code that publishes, resolves, verifies or loads a model lives here; code that scores rows does not. It imports
`scoreline.storage.objects` and `scoreline.storage.keys`. `registry` and what it imports do without scikit-learn.
"""
