"""Ensembles of trees in a compact form, which scores rows faster than scikit-learn with the same results.

`extension` compiles the ensembles of a bundle if the extension was built, and `ensembles` replaces methods of their
estimators for the time of a batch. `compiling` finds the ensembles and compares each with scikit-learn on the rows of
`probes`. `estimators` knows the classes of scikit-learn, `nodes` packs trees, and rows walk through them in `_walk`, in
Cython. This package imports nothing else of Scoreline.
"""
