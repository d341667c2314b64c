"""Scores the rows of a queryset, and writes the results into a model of the application.

`submitting` reads the rows in the application's own connection, stages them and submits the job; `target` says which
fields of a model get which columns of the results, and `loading` writes them where workers cannot.
"""
