"""Determines which objects and columns a job reads.

This room contains everything that must be known before a row is scored: the listing of objects, Hive partitions, the
choice of columns, and the objects that earlier runs have scored. Scoring belongs elsewhere. It imports the room `job`,
and pyarrow for column types.
"""
