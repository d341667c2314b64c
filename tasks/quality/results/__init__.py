"""Reads the rows of accepted runs, and writes them to local files."""
