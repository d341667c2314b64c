"""A variant of joblib's unpickler that copies arrays less often, and does not keep a second copy of every tree.

joblib reads an array into bytes, and then copies them into the array. Here they are read into the array itself.

An unpickler keeps every object until the end, because the stream may refer to it again. The state of a scikit-learn
tree is a dict of arrays, and ``Tree.__setstate__`` copies these arrays into its own memory. If the dicts were kept, a
forest would use twice its size in memory while it is loaded. Nothing else refers to such a dict, so it is emptied as
soon as the tree has copied the arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from typing import Any

import numpy as np
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler, _ensure_native_byte_order
from joblib.numpy_pickle_utils import _validate_fileobject_and_memmap
from sklearn.tree._tree import Tree

from scoreline.storage.errors import ScorelineError


class _ArrayWrapper(NumpyArrayWrapper):  # type: ignore[misc]  # joblib has no types
    """Stands for an array in a pickle of joblib. The bytes of the array follow it in the stream."""

    def read_array(self, unpickler: _Unpickler, ensure_native_byte_order: bool) -> Any:
        """Read the array. Arrays of Python objects, which are pickles themselves, are left to joblib."""
        if self.dtype.hasobject or not self.dtype.itemsize:
            return super().read_array(unpickler, ensure_native_byte_order)
        file = unpickler.file_handle
        if self.safe_get_numpy_array_alignment_bytes() is not None:
            file.read(int.from_bytes(file.read(1), "little"))
        array = np.empty(math.prod(map(int, self.shape)), self.dtype)
        _fill(memoryview(array.view(np.uint8)), file)
        array = array.reshape(self.shape[::-1]).transpose() if self.order == "F" else array.reshape(self.shape)
        return _ensure_native_byte_order(array) if ensure_native_byte_order else array


def _fill(buffer: memoryview, file: Any) -> None:
    """Read from a stream until a buffer is full."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        if not count:
            raise ValueError(f"EOF: reading array data, expected {len(buffer)} bytes got {filled}")
        filled += count


class _Unpickler(NumpyUnpickler):  # type: ignore[misc]  # joblib has no types
    dispatch = NumpyUnpickler.dispatch.copy()

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function by its name."""
        found = super().find_class(module, name)
        return _ArrayWrapper if found is NumpyArrayWrapper else found

    def load_build(self) -> None:
        """Set the state of an object. If the object is a tree, empty its state dict afterwards."""
        state = self.stack[-1]
        super().load_build()
        if type(self.stack[-1]) is Tree and type(state) is dict:
            state.clear()

    dispatch[pickle.BUILD[0]] = load_build


class LoadFailed(Exception):
    """Raised if a stream cannot be unpickled.

    Parameters
    ----------
    error : Exception
        The error of the unpickler.
    saved_by : str or None
        The version of scikit-learn that the rest of the stream names, or None.
    """

    def __init__(self, error: Exception, saved_by: str | None) -> None:
        super().__init__(error, saved_by)
        self.error = error
        self.saved_by = saved_by


def load(file: io.BufferedIOBase) -> Any:
    """Load a plain pickle, or a file that ``joblib.dump`` wrote, with or without compression.

    Parameters
    ----------
    file : buffered reader
        The stream, which need not be seekable. When the function returns, the position of the stream is after the
        pickle.

    Raises
    ------
    LoadFailed
        The stream is not a pickle, or it cannot be loaded here.
    ScorelineError
        The stream raised this error.
    """
    try:
        with _validate_fileobject_and_memmap(file, "", None) as (stream, _):
            unpickler = _Unpickler("", stream, ensure_native_byte_order=True)
            try:
                return unpickler.load()
            except ScorelineError:
                raise
            except Exception as error:
                raise LoadFailed(error, _find_version(unpickler, stream)) from error
    except (ScorelineError, LoadFailed):
        raise
    except Exception as error:  # the decompressor may raise anything
        raise LoadFailed(error, None) from error


_VERSION = re.compile(rb"_sklearn_version(?:\x94|q.|r.{4})?(?:\x8c(.)|X(.{4}))", re.DOTALL)
"""Pattern of the version key in the state of an estimator, in any pickle protocol. It captures the length of the
version that follows the key."""
_SEARCHED_BYTES = 1 << 20


def find_version(data: bytes) -> str | None:
    """Return the first version of scikit-learn that a joblib or pickle file names; None if it names no version."""
    with _validate_fileobject_and_memmap(io.BytesIO(data), "", None) as (stream, _):
        return _search_version(b"", stream)


def _find_version(unpickler: _Unpickler, stream: Any) -> str | None:
    """Return the next version of scikit-learn that a stream names, after the unpickler has failed.

    An estimator writes the version at the end of its state, so the version follows the position of the failure.
    """
    frame = unpickler._unframer.current_frame
    return _search_version(frame.read() if frame is not None else b"", stream)


def _search_version(data: bytes, stream: Any) -> str | None:
    try:
        while True:
            if found := _VERSION.search(data):
                length = int.from_bytes(found[1] or found[2], "little")
                data += stream.read(length)
                return str(data[found.end() : found.end() + length], "ascii")
            more = stream.read(_SEARCHED_BYTES)
            if not more:
                return None
            data = data[-64:] + more
    except Exception:  # noqa: BLE001  # the stream may be damaged, or the text no version
        return None
