"""Score the same files with the same models, in different ways.

Each module of this package is a contender, which runs as a process of its own:

``python -m benchmarks.contenders.NAME FOLDER MODEL [MODEL ...]``

A contender starts the processes that it needs. For each model, it first scores two of the files twice, to warm up, and
then all files. The results are written below ``FOLDER/out/NAME/MODEL/``. `benchmarks.contenders.protocol` describes the
output of a contender.
"""
