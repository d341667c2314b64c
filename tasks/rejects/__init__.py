"""Stores, counts, shows and rescores the rows that a job rejected.

All code that writes or reads rejected rows lives here; deciding which rows to reject belongs to `scoring`. This room
imports the rooms `job`, `scoring`, `inputs` and `dispatch`.
"""
