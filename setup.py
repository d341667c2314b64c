"""Builds the extensions in Cython; everything else about the package is in ``pyproject.toml``.

Each ``.pyx`` file of the product is an extension. All of them are optional: without a compiler, a build leaves them
out, and their callers do the same work in Python.
"""

from pathlib import Path

from setuptools import Extension, setup

FOLDERS = ("storage", "tasks", "worker")
# No option assumes a feature of the processor. By default, compilers for arm64 contract a product and a sum into one
# operation, whose result is rounded once instead of twice, so results would differ from those of NumPy.
OPTIONS = ["-O3", "-g0", "-ffp-contract=off", "-Wno-unused-function"]

extensions = [
    Extension(
        ".".join(("scoreline", *path.with_suffix("").parts)),
        [str(path)],
        depends=[str(included) for included in sorted(path.parent.glob("*.px[id]"))],
        extra_compile_args=OPTIONS,
        optional=True,
    )
    for folder in FOLDERS
    for path in sorted(Path(folder).rglob("*.pyx"))
]

setup(ext_modules=extensions, options={"build_ext": {"cython_c_in_temp": True}})
