"""A compact form of ensembles of trees. It scores rows faster than scikit-learn does, and gives the same results.

`extension` compiles the ensembles of a bundle if the extension was built, and `ensembles` replaces methods of their
estimators for the time of a batch. `compiling` finds the ensembles, and compares each compiled ensemble with
scikit-learn on the rows of `probes`. `estimators` knows the classes of scikit-learn, and `nodes` packs trees. `_walk`,
a module in Cython, walks rows through packed trees. This package imports no other package of Scoreline.
"""
