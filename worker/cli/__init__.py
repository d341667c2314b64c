"""The command line: ``scoreline``."""
