"""Tables at rest: Parquet read by ranges and written in one piece."""
