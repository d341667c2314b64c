"""Trees in a compact form, through which rows walk several times faster than in scikit-learn, to the same leaves.

`nodes` packs trees, and `_walk` is the extension in Cython. This package imports nothing else of Scoreline.
"""
