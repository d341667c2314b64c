"""The command line, ``scoreline``.

Each module contains the commands of one subject. `main` puts them together, and `help` and `output` decide how all of
them look. A module may import any other room, but must import packages that are not in `requirements.txt` late, inside
functions. A command that neither loads a model nor reads a table must work with `requirements.txt` alone.
"""
