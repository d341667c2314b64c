"""Compiles the text vectorizers of scikit-learn: the words of ASCII documents are counted by the extension `_words`.

Only the counting is replaced. What scikit-learn does with the counts, such as weighing and normalizing them, is its own
code. All documents that are not ASCII are split into words by scikit-learn. Everything is left to scikit-learn if a
document is not a text, so that its errors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils import _align_api_if_sparse  # private: `compiling.KNOWN_VERSIONS` have it

from scoreline.storage.models.compiled import _words
from scoreline.storage.models.compiled.compiled_estimators import Uses
from scoreline.storage.models.compiled.trees import NotPackable

type Counted = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""The index pointers, columns and counts of a sparse matrix."""

_PATTERN = r"(?u)\b\w\w+\b"
_MAX_BYTES = 1 << 20
"""Longer documents are left to scikit-learn, so that float32 represents all counts of a document exactly."""
_MAX_N = 8
"""N-grams of more words are left to scikit-learn, for the same reason."""
_MAX_COUNTS = 2**31 - 1
"""If a batch has more counts, its index pointers need int64, and it is left to scikit-learn."""
_MAX_EXACT = 1 << 24
"""Maximum number up to which float32 represents each integer."""
_ASCII_ENCODINGS = ("utf-8", "utf8", "ascii")
"""Encodings in which bytes of ASCII are what they are in ASCII."""
_HASHED_TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32), np.dtype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A hash table of terms and their columns; `_words` says what its bytes mean."""

    terms: npt.NDArray[np.uint8]
    slots: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, columns: dict[str, Any]) -> Table:
        """Return the table of a vocabulary. Raises `ValueError` or `TypeError` if it is damaged."""
        terms, slots = _words.build(columns, np.str_)
        return cls(terms=np.frombuffer(terms, np.uint8), slots=np.frombuffer(slots, np.uint8))

    @classmethod
    def empty(cls) -> Table:
        """Return a table without terms and slots, in which nothing is looked up."""
        return cls(terms=np.empty(0, np.uint8), slots=np.empty(0, np.uint8))

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self.terms.nbytes + self.slots.nbytes


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WordCounter:
    """Counts the words of documents as one vectorizer does. Its methods replace those of the vectorizer."""

    vectorizer: Any
    vocabulary: Table
    stop_words: Table
    columns: Any
    """The vocabulary of the vectorizer itself, for words that are not ASCII; None if words are hashed."""

    @property
    def nbytes(self) -> int:
        """Memory that is taken in addition to the vectorizer."""
        return self.vocabulary.nbytes + self.stop_words.nbytes

    def count_vocab(self, raw_documents: Any, fixed_vocab: bool) -> Any:
        """Replace `CountVectorizer._count_vocab`."""
        model = self.vectorizer
        own = type(model)._count_vocab
        if not fixed_vocab:
            return own(model, raw_documents, fixed_vocab)
        counted = self._counted(raw_documents, model.build_analyzer)
        if counted is None:
            return own(model, raw_documents, fixed_vocab)
        pointers, columns, counts = counted
        x = csr_array((counts, columns, pointers), shape=(len(pointers) - 1, len(self.columns)), dtype=model.dtype)
        x.sort_indices()  # they are sorted already; this notes it in the matrix
        return self.columns, _align_api_if_sparse(x)

    def transform(self, X: Any) -> Any:
        """Replace `HashingVectorizer.transform`."""
        model = self.vectorizer
        counted = self._counted(X, self._analyzer_of_hashed)
        if counted is None or len(counted[0]) == 1:
            return type(model).transform(model, X)
        pointers, columns, counts = counted
        if np.abs(counts).max(initial=0) > _MAX_EXACT:  # scikit-learn adds in float32
            return type(model).transform(model, X)
        shape = (len(pointers) - 1, model.n_features)
        x = csr_array((counts.astype(model.dtype), columns, pointers), dtype=model.dtype, shape=shape)
        x.sum_duplicates()  # there are none; this notes it in the matrix
        x = _align_api_if_sparse(x)
        if model.binary:
            x.data.fill(1)
        if model.norm is not None:
            x = normalize(x, norm=model.norm, copy=False)
        return _align_api_if_sparse(x)

    def _analyzer_of_hashed(self) -> Callable[[Any], list[str]]:
        self.vectorizer._validate_ngram_range()
        analyze: Callable[[Any], list[str]] = self.vectorizer.build_analyzer()
        return analyze

    def _counted(self, documents: Any, build_analyzer: Callable[[], Any]) -> Counted | None:
        """Count the words of documents. Returns None if scikit-learn has to do so."""
        found = _as_list(documents)
        if found is None:
            return None
        model = self.vectorizer
        analyze = build_analyzer()
        min_n, max_n = model.ngram_range
        hashes = self.columns is None
        try:
            counted = _words.count(
                found,
                bool(model.lowercase),
                self.vocabulary.terms,
                self.vocabulary.slots,
                self.stop_words.terms,
                self.stop_words.slots,
                min_n,
                max_n,
                model.n_features if hashes else 0,
                bool(model.alternate_sign) if hashes else False,
                analyze,
                self.columns,
                np.str_,
                model.encoding.lower() in _ASCII_ENCODINGS,
                _MAX_BYTES,
                _MAX_COUNTS,
            )
        except (UnicodeError, LookupError):  # of a document that cannot be decoded or encoded
            return None
        if counted is None:
            return None
        Uses.count += 1
        pointers, columns, counts = (np.frombuffer(array, np.int32) for array in counted)
        return pointers, columns, counts


def is_vectorizer(value: Any) -> bool:
    """Return whether objects of this class can be compiled."""
    return type(value) in (CountVectorizer, TfidfVectorizer, HashingVectorizer)


def compile_vectorizer(vectorizer: Any) -> tuple[Mapping[str, Any], WordCounter]:
    """Return the methods that replace those of a fitted vectorizer, and the object that has them.

    Raises
    ------
    NotPackable
        The vectorizer cannot be compiled. The message says why, after "because".
    """
    if (why := _why_not(vectorizer)) is not None:
        raise NotPackable(why)
    hashes = type(vectorizer) is HashingVectorizer
    try:
        words = vectorizer.get_stop_words()
        counter = WordCounter(
            vectorizer=vectorizer,
            vocabulary=Table.empty() if hashes else Table.of(vectorizer.vocabulary_),
            stop_words=Table.empty() if words is None else Table.of({word: place for place, word in enumerate(words)}),
            columns=None if hashes else vectorizer.vocabulary_,
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise NotPackable(f"its fitted state is not as expected ({type(error).__name__}: {error})") from error
    return ({"transform": counter.transform} if hashes else {"_count_vocab": counter.count_vocab}), counter


def _why_not(vectorizer: Any) -> str | None:
    """Return why the words of a vectorizer are not those that the extension finds, or None if they are."""
    defaults = {
        "input": "content",
        "analyzer": "word",
        "token_pattern": _PATTERN,
        "tokenizer": None,
        "preprocessor": None,
    }
    for name, default in defaults.items():
        value = getattr(vectorizer, name)
        if type(value) is not type(default) or value != default:
            return f"its {name} is not the default"
    if vectorizer.strip_accents not in (None, "ascii", "unicode"):
        return "its strip_accents is a function"
    ngrams = vectorizer.ngram_range
    if not (isinstance(ngrams, tuple | list) and len(ngrams) == 2 and all(isinstance(n, Integral) for n in ngrams)):
        return "its ngram_range is not two numbers"
    if not 1 <= ngrams[0] <= ngrams[1] <= _MAX_N:
        return f"its n-grams have {ngrams[0]} to {ngrams[1]} words"
    if type(vectorizer) is HashingVectorizer and np.dtype(vectorizer.dtype) not in _HASHED_TYPES:
        return f"its dtype is {np.dtype(vectorizer.dtype)}"
    return None


def _as_list(documents: Any) -> list[Any] | None:
    """Return the documents as a list if they are in a container that can be iterated twice, otherwise None."""
    if type(documents) in (list, tuple):
        return list(documents)
    if type(documents) is pd.Series:  # an array of objects is many times faster to go through
        documents = documents.to_numpy(dtype=object)
    if type(documents) is np.ndarray and documents.ndim == 1 and documents.dtype.kind in "OU":
        found: list[Any] = documents.tolist()
        return found
    return None
