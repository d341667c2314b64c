"""The unpickler of joblib, without a second copy of every tree.

An unpickler keeps every object that it has created until the end, in case the stream refers to it again. The state of a
scikit-learn tree is a dict of arrays, which ``Tree.__setstate__`` copies into memory of its own. If these dicts were
kept, a forest would take twice its size while it is loaded. Each dict is created for the pickle alone and nothing else
can refer to it, so it is emptied as soon as the tree has copied it.
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
        """Set the state of an object, and empty the state of a tree afterwards."""
        state = self.stack[-1]
        super().load_build()
        if type(self.stack[-1]) is Tree and type(state) is dict:
            state.clear()

    dispatch[pickle.BUILD[0]] = load_build


def load(file: io.BufferedIOBase) -> Any:
    """Load what ``joblib.dump`` wrote, compressed or not, or a plain pickle.

    Parameters
    ----------
    file : buffered reader
        The stream. It need not be seekable, and is positioned after the pickle afterwards.
    """
    with _validate_fileobject_and_memmap(file, "", None) as (stream, _):
        return _Unpickler("", stream, ensure_native_byte_order=True).load()
