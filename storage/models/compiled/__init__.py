"""Ensembles of trees, text vectorizers and scalers, faster than in scikit-learn and with the same results.

`extension` compiles the models of a bundle if the extensions were built, and `compiled_estimators` says what is
compiled. For the time of a batch, `replacing` replaces methods of estimators, unless `fitted_state` notices that one
has been changed. `compiling` compiles the estimators that `finding` finds, and `comparing` compares each with
scikit-learn, on the rows of `probes`, the documents of `probe_documents` or the values of `probe_values`.
`tree_ensembles`, `wholes` and `single_trees` know the ensembles of scikit-learn, and share `validated`. `threads`
shares the work for large ensembles. `trees` checks their arrays and lays out their nodes with `_pack`, `columns`
chooses what is compared, and `nodes` packs both. Rows walk through large trees in `_walk`, and `_select` decides all
splits of small trees. Rows of a single tree are looked at and walk in `_single`. `vectorizers` knows the text
vectorizers, whose words are counted in `_words`. `scalers` knows the scalers, whose rows are scaled in `_scale`.
`plain_rows` says which rows scikit-learn need not validate for single trees and scalers. `_pack`, `_walk`, `_select`,
`_single`, `_words` and `_scale` are written in Cython. Of other packages of Scoreline, this one imports `kept_memory`
alone.
"""
