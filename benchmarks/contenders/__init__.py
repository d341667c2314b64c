"""Ways to score the same files with the same models.

Each runs as a process of its own:

``python -m benchmarks.contenders.NAME FOLDER MODEL [MODEL ...]``

It starts what it needs, then for each model scores two files twice in the same way to be warm, and all of them; results
go below ``FOLDER/out/NAME/MODEL/``. See `benchmarks.contenders.protocol` for what it prints.
"""
