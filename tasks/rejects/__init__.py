"""Rows that could not be scored: how they are stored, counted, shown and scored again.

Whatever writes or reads rejected rows lives here; finding them belongs to `scoring`. It imports `job`, `scoring`,
`inputs` and `dispatch`.
"""
