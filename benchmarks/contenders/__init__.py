"""Score the same files with the same models, in different ways.

Each runs as a process of its own:

``python -m benchmarks.contenders.NAME FOLDER MODEL [MODEL ...]``

It starts the processes that it needs. For each model, it first scores two of the files twice, to warm up, and then all
files. Results go below ``FOLDER/out/NAME/MODEL/``. See `benchmarks.contenders.protocol` for what it prints.
"""
