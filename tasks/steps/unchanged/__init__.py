"""Carries the scores of unchanged rows over from the accepted run of an output, for jobs with ``only_changed``.

`row_hashes` recognizes rows, `stored_scores` keeps the scores of a part beside its results, `accepted_run` finds the
run from which a job carries, `carrier` finds the scores of a part's rows, and `carried_batch` puts them among the
others.
"""
