"""A variant of joblib's unpickler that does not keep a second copy of every tree.

An unpickler keeps every object that it creates until the end, because the stream may refer to the object again. The
state of a scikit-learn tree is a dict of arrays, and ``Tree.__setstate__`` copies these arrays into its own memory. If
the dicts were kept, a forest would use twice its size in memory while it is loaded. Each dict exists only in the pickle
and nothing else can refer to it, so it is emptied as soon as the tree has copied the arrays.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from joblib.numpy_pickle import NumpyUnpickler
from joblib.numpy_pickle_utils import _validate_fileobject_and_memmap
from sklearn.tree._tree import Tree


class _Unpickler(NumpyUnpickler):  # type: ignore[misc]  # joblib has no types
    dispatch = NumpyUnpickler.dispatch.copy()

    def load_build(self) -> None:
        """Set the state of an object. If it is a tree, empty the state dict afterwards."""
        state = self.stack[-1]
        super().load_build()
        if type(self.stack[-1]) is Tree and type(state) is dict:
            state.clear()

    dispatch[pickle.BUILD[0]] = load_build


def load(file: io.BufferedIOBase) -> Any:
    """Load a plain pickle, or a file that ``joblib.dump`` wrote, with or without compression.

    Parameters
    ----------
    file : buffered reader
        The stream. It need not be seekable. Its position is after the pickle when this function returns.
    """
    with _validate_fileobject_and_memmap(file, "", None) as (stream, _):
        return _Unpickler("", stream, ensure_native_byte_order=True).load()
