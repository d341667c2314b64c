"""Which objects and columns a job reads: listing, hive partitions, and objects that no earlier run has scored.

What has to be known of an input before any of its rows is scored lives here. Scoring does not enter. It imports the
room `job`, and pyarrow for the types of columns.
"""
