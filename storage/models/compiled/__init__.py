"""A compact form of ensembles of trees. It scores rows faster than scikit-learn does, and gives the same results.

`extension` compiles the ensembles of a bundle if the extensions were built, and `ensembles` replaces methods of their
estimators for the time of a batch. `compiling` finds the ensembles and compares each with scikit-learn on the rows of
`probes`. `estimators` and `wholes` know the classes of scikit-learn, and share `validated`. `trees` checks their
arrays, `columns` chooses what is compared, and `nodes` packs both. Rows walk through large trees in `_walk`, and
`_select` decides all splits of small trees; both are written in Cython. This package imports nothing else of Scoreline.
"""
