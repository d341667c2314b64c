"""Ensembles of trees and text vectorizers in a form that is faster than scikit-learn and gives the same results.

`extension` compiles the models of a bundle if the extensions were built, and `ensembles` replaces methods of their
estimators for the time of a batch. `compiling` finds the estimators and compares each with scikit-learn, on the rows of
`probes` or the documents of `probe_documents`. `estimators`, `wholes` and `single_trees` know the ensembles of
scikit-learn, and share `validated`. `threads` shares the work for large ensembles. `trees` checks their arrays and lays
out their nodes with `_pack`, `columns` chooses what is compared, and `nodes` packs both. Rows walk through large trees
in `_walk`, and `_select` decides all splits of small trees. Rows of a single tree are looked at and walk in `_single`.
`vectorizers` knows the text vectorizers, whose words are counted in `_words`. `_pack`, `_walk`, `_select`, `_single`
and `_words` are written in Cython. This package imports no other package of Scoreline.
"""
