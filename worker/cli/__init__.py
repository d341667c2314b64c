"""The command line, ``scoreline``.

Each module holds the commands of one subject; `main` puts them together, and `help` and `output` decide how all of them
look. A module may import any other room, but only late what needs more than `requirements.txt`, which must suffice for
every command that loads no model and reads no table.
"""
