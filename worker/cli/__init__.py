"""The command line, ``scoreline``.

Each module contains the commands of one subject. The module `main` combines the commands. The modules `help` and
`output` format help pages and output. A module may import all other packages of Scoreline. Packages that are not in
`requirements.txt` must be imported inside functions. Commands that load no model and read no table must work with
`requirements.txt` alone.
"""
