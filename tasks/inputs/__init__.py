"""Determines which objects and columns a job reads.

Listing, Hive partitions, the choice of columns and the objects that earlier runs have scored live here: all that must
be known before a row is scored. Scoring does not enter. It imports the room `job`, and pyarrow for types of columns.
"""
