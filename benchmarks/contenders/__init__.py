"""Score the same files with the same models, in different ways.

Each runs as a process of its own:

``python -m benchmarks.contenders.NAME FOLDER MODEL [MODEL ...]``

It starts what it needs. For each model, it scores two files twice to warm up, and then all of them; results go below
``FOLDER/out/NAME/MODEL/``. See `benchmarks.contenders.protocol` for what it prints.
"""
