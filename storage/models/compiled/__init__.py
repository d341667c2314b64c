"""Ensembles of trees and text vectorizers in a form that is faster than scikit-learn and has the same results.

`extension` compiles the models of a bundle if the extensions were built, and `ensembles` replaces methods of their
estimators for the time of a batch. `compiling` finds the estimators and compares each with scikit-learn, on the rows of
`probes` or the documents of `probe_documents`. `estimators` knows the ensembles of scikit-learn, `nodes` packs trees,
and rows walk through them in `_walk`, in Cython. `vectorizers` knows the text vectorizers, whose words are counted in
`_words`, in Cython. This package imports nothing else of Scoreline.
"""
