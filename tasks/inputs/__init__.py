"""Determines which objects and columns a job reads.

This room lists objects, reads Hive partitions, chooses columns, and records which objects earlier runs have scored.
Scoring belongs elsewhere. This room imports the room `job`, and pyarrow for column types.
"""
