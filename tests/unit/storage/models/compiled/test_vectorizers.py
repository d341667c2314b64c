"""Compiled text vectorizers give the matrices of scikit-learn to the last bit, or are not used."""

from __future__ import annotations

import copy
import itertools
import pickle
import string
import struct
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer, _VectorizerMixin
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.utils import all_estimators, murmurhash3_32
from sklearn.utils._test_common.instance_generator import _construct_instances

pytest.importorskip("scoreline.storage.models.compiled._words", reason="there was no compiler to build the extension")

from scoreline.storage.models.compiled import _words, extension, vectorizers
from scoreline.storage.models.compiled.compiled_estimators import CompiledEstimators
from scoreline.storage.models.compiled.extension import compile_estimators
from scoreline.storage.models.compiled.probe_documents import MAX_TERMS, probe_documents
from scoreline.storage.models.compiled.replacing import replaced
from scoreline.storage.models.compiled.trees import NotPackable
from scoreline.storage.models.compiled.vectorizers import Table, compile_vectorizer, is_vectorizer

CORPUS = [
    "New York is a new city; York is OLD.",
    "the_old city of Ÿork, café & naïve 42 times",
    "a b c d-e",
    "",
    "it's 3.14 and x86_64, 007 and the old new York City city city",
    "Die Straße nach York: ÄÖÜ",
]
DOCUMENTS: list[Any] = [
    *CORPUS,
    "NEW a YORK the\x00old city",
    " ".join(["city york of the new old"] * 70),
    "\u212aelvin \u0130stanbul york\xa0city",
    "x" * 300,
    b"new york in bytes",
    "café york in bytes".encode(),
    np.str_("old York city"),
    "_ __ 1 11 A AA é éé",
    "zzz qqq unknown words only",
]
VECTORIZERS: dict[str, Callable[[], Any]] = {
    "counts": lambda: CountVectorizer(),
    "counts, case": lambda: CountVectorizer(lowercase=False),
    "counts, binary": lambda: CountVectorizer(binary=True, dtype=np.float32),
    "counts, small": lambda: CountVectorizer(dtype=np.int8, max_features=7),
    "counts, one to three": lambda: CountVectorizer(ngram_range=(1, 3)),
    "counts, pairs": lambda: CountVectorizer(ngram_range=(2, 2), min_df=1, max_df=0.9),
    "counts, long n-grams": lambda: CountVectorizer(ngram_range=(3, 8)),
    "counts, stop words": lambda: CountVectorizer(stop_words="english", ngram_range=(1, 2)),
    "counts, own stop words": lambda: CountVectorizer(stop_words=["york", "new", "Old", "é", "no word"]),
    "counts, accents": lambda: CountVectorizer(strip_accents="unicode"),
    "counts, own vocabulary": lambda: CountVectorizer(
        vocabulary=["york", "new york", "New", "a", "", "café", "new  york", "old-city", "city", "the\x00old"]
    ),
    "counts, own pairs": lambda: CountVectorizer(vocabulary={"new york": 1, "york": 0}, ngram_range=(1, 2)),
    "weights": lambda: TfidfVectorizer(),
    "weights, float32": lambda: TfidfVectorizer(dtype=np.float32, sublinear_tf=True, norm="l1"),
    "weights, plain": lambda: TfidfVectorizer(norm=None, use_idf=False, binary=True),
    "weights, unsmoothed": lambda: TfidfVectorizer(smooth_idf=False, ngram_range=(1, 2), strip_accents="ascii"),
    "hashes": lambda: HashingVectorizer(),
    "hashes, few": lambda: HashingVectorizer(n_features=3, ngram_range=(1, 2)),
    "hashes, one": lambda: HashingVectorizer(n_features=1, norm=None, binary=True),
    "hashes, most": lambda: HashingVectorizer(n_features=2**31 - 2, norm="l1", dtype=np.float32),
    "hashes, unsigned": lambda: HashingVectorizer(n_features=13, alternate_sign=False, stop_words="english"),
    "hashes, one stop word": lambda: HashingVectorizer(stop_words=["york"], ngram_range=(1, 2)),
    "hashes, whole": lambda: HashingVectorizer(n_features=5, norm=None, dtype=np.int32, lowercase=False),
}


def fitted(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return VECTORIZERS[name]().fit(CORPUS)


def compiled(model: Any) -> CompiledEstimators:
    found = compile_estimators([("model", model)])
    assert [one.reason for one in found.found] == [None]
    return found


def outcome(model: Any, documents: Any) -> Any:
    """Return all bits of the matrix of some documents, or the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matrix = model.transform(documents)
    except (ValueError, TypeError, AttributeError, LookupError, StopIteration) as error:
        return type(error), str(error)
    notes = {name: value for name, value in vars(matrix).items() if not isinstance(value, np.ndarray)}
    arrays = [
        (array.dtype, array.flags.writeable, array.tobytes()) for array in (matrix.indptr, matrix.indices, matrix.data)
    ]
    return type(matrix), matrix.shape, matrix.has_sorted_indices, matrix.has_canonical_format, notes, arrays


def containers(documents: list[Any]) -> list[Any]:
    """Return documents in each form in which a job or an application may pass them."""
    texts = [one for one in documents if isinstance(one, str)]
    return [
        documents,
        tuple(documents),
        np.array(documents, dtype=object),
        np.array(documents, dtype=object)[::-2],
        np.array(texts),
        pd.Series(texts),
        pd.Series(texts, dtype=object, index=range(5, 5 + len(texts))),
        pd.Series(texts, dtype="category"),
        pd.Series(texts, dtype=pd.StringDtype("python")),
        documents[:1],
        [],
        (one for one in documents),
    ]


@pytest.mark.parametrize("name", VECTORIZERS)
def test_matrices_are_equal_in_every_bit(name: str) -> None:
    model = fitted(name)
    faster = compiled(model)
    before = dict(vars(model))
    for own, ours in zip(containers(DOCUMENTS), containers(DOCUMENTS), strict=True):
        expected = outcome(model, own)
        with faster.in_use():
            assert outcome(model, ours) == expected
    assert {key: vars(model)[key] for key in before} == before


@pytest.mark.parametrize("name", VECTORIZERS)
@pytest.mark.parametrize(
    "documents",
    [
        "one text",
        None,
        7,
        ["york", None],
        ["york", np.nan],
        ["york", float("nan")],
        ["york", 3],
        ["york", ["york"]],
        ["york", pd.NA],
        [b"york", b"\xff\xfe"],
        ["york", "lone \ud800 surrogate"],
        pd.Series(["york", None]),
        pd.Series([1.5, 2.5]),
        np.array([["york"], ["city"]]),
        np.array([1, 2]),
        {"york": 1},
    ],
    ids=repr,
)
def test_what_is_no_text_has_the_outcome_of_scikit_learn(name: str, documents: Any) -> None:
    model = fitted(name)
    faster = compiled(model)
    expected = outcome(model, documents)
    with faster.in_use():
        assert outcome(model, documents) == expected


def test_a_codec_of_another_kind_decodes_bytes() -> None:
    documents = [b"york city", "york city".encode("utf-16"), b"+AOk- york"]
    for encoding in ("utf-16", "utf-7", "latin-1", "UTF-8", "ascii", "no codec"):
        for errors in ("strict", "ignore"):
            model = CountVectorizer(encoding=encoding, decode_error=errors).fit(CORPUS)
            faster = compile_estimators([("model", model)])
            expected = outcome(model, documents)
            with faster.in_use():
                assert outcome(model, documents) == expected
    model = CountVectorizer(encoding="utf-7").fit(["york +AOk-"])
    assert compiled(model)


ALPHABET = st.sampled_from([*"aAbB1_ ., \n\x00\x7f-", "é", "ß", "İ", "\u212a", "中", "\u0301", "\xa0"])
TEXTS = st.text(ALPHABET, max_size=40) | st.text(st.sampled_from("aAbB_ 1."), max_size=200)


@given(
    corpus=st.lists(TEXTS, min_size=1, max_size=6),
    documents=st.lists(TEXTS | TEXTS.map(lambda text: text.encode()), min_size=1, max_size=6),
    rules=st.fixed_dictionaries(
        {
            "ngram_range": st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 2), (2, 4), (8, 8)]),
            "lowercase": st.booleans(),
            "binary": st.booleans(),
            "stop_words": st.none() | st.lists(st.sampled_from(["aa", "ab", "AA", "a_", "ba", "éa", "11"])),
            "dtype": st.sampled_from([np.float32, np.float64]),
        }
    ),
    n_features=st.sampled_from([1, 2, 7, 1 << 20, 2**31 - 2]),
    kind=st.sampled_from([CountVectorizer, TfidfVectorizer, HashingVectorizer]),
)
@example(["aa bb"], ["aa a bb aa"], {"ngram_range": (2, 2)}, 1, CountVectorizer)
def test_any_documents_have_the_matrix_of_scikit_learn(
    corpus: list[str], documents: list[Any], rules: dict[str, Any], n_features: int, kind: type
) -> None:
    hashes = kind is HashingVectorizer
    model = kind(**rules, **({"n_features": n_features} if hashes else {}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(corpus)
    except ValueError:  # the vocabulary is empty
        model = kind(**rules).fit([*corpus, "aa bb cc dd ee ff gg hh ii jj aa"])
    methods, _ = compile_vectorizer(model)
    expected = outcome(model, documents)
    with replaced(model, methods):
        assert outcome(model, documents) == expected


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 3), st.sampled_from([0, 50]))
def test_columns_are_sorted_however_many_words_a_document_has(numbers: list[int], n: int, apart: int) -> None:
    words = {f"w{number:02}": number * 7 % 41 * (apart + 1) for number in range(41)}
    columns = dict.fromkeys(range(40 * (apart + 1) + 1)) | {column: word for word, column in words.items()}
    model = CountVectorizer(vocabulary=[word or f"{column}" * 2 for column, word in columns.items()])
    model.set_params(ngram_range=(1, n)).fit([])
    methods, _ = compile_vectorizer(model)
    documents = [" ".join(f"w{number:02}" for number in numbers)]
    expected = outcome(model, documents)
    with replaced(model, methods):
        assert outcome(model, documents) == expected


@pytest.mark.parametrize("columns", [4_095, 4_096, 4_097, 65_536, 65_537])
def test_columns_beside_the_ends_of_groups_are_counted_as_by_scikit_learn(columns: int) -> None:
    places = [*range(0, columns, 61), 0, 63, 64, 4_031, 4_032, columns - 1]
    model = CountVectorizer(vocabulary=[f"w{column}" for column in range(columns)]).fit([])
    methods, _ = compile_vectorizer(model)
    documents = [" ".join(f"w{place}" for place in chosen) for chosen in (places, places[::-1], [], places[5::7])]
    documents.append("-" * columns)  # for totals, a batch needs as many bytes as there are columns
    expected = outcome(model, documents)
    with replaced(model, methods):
        assert outcome(model, documents) == expected


@pytest.mark.parametrize("ngrams", [(1, 1), (1, 2)])
def test_words_end_at_any_place_of_a_block(ngrams: tuple[int, int]) -> None:
    model = HashingVectorizer(ngram_range=ngrams, n_features=1 << 20)
    methods, _ = compile_vectorizer(model)
    texts = [f"{'x' * n}{end}" for n in range(132) for end in ("", " ", " ab", "-a-Zy")]
    documents = [*texts, *(text[::-1] for text in texts), *(f"a {text} B_" for text in texts)]
    expected = outcome(model, documents)
    with replaced(model, methods):
        assert outcome(model, documents) == expected


@pytest.mark.parametrize("lowercase", [True, False])
def test_only_letters_digits_and_underscores_are_parts_of_words(lowercase: bool) -> None:
    model = HashingVectorizer(lowercase=lowercase, n_features=1 << 20)
    methods, _ = compile_vectorizer(model)
    documents = [f"aa{chr(code)}bb" for code in range(128)]
    expected = outcome(model, documents)
    with replaced(model, methods):
        assert outcome(model, documents) == expected


@given(st.lists(st.text(max_size=20), unique=True, max_size=300))
def test_a_table_has_the_terms_of_a_vocabulary_and_no_others(terms: list[str]) -> None:
    table = Table.of({term: column for column, term in enumerate(terms)})
    slots = table.slots.view(np.uint32).reshape(-1, 4)
    taken = slots[slots[:, 2] > 0]
    assert len(taken) < len(slots)
    found = {bytes(table.terms[start : start + length]).decode(): column for _, start, length, column in taken.tolist()}
    assert found == {term: column for column, term in enumerate(terms) if term and term.isascii()}


def words_with_one_slot() -> tuple[str, str]:
    """Return two words of eight letters that belong into the same slot of eight, and have the same tag there."""
    letters = np.random.default_rng(0).integers(97, 123, (600_000, 8), dtype=np.uint8)
    blocks = np.unique(np.ascontiguousarray(letters).view("<u8").ravel())
    values = (blocks ^ np.uint64(8)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    places = (values & np.uint64(0xFFFFFFFF)) << np.uint64(3) | values >> np.uint64(61)
    order = np.argsort(places)
    (same, *_) = np.flatnonzero(np.diff(places[order]) == 0)
    one, other = (blocks[order[number]].tobytes().decode() for number in (same, same + 1))
    return one, other


def test_words_with_the_same_hash_are_told_apart() -> None:
    one, other = words_with_one_slot()
    tags = [Table.of({word: 0}).slots.view(np.uint32).reshape(-1, 4)[:, 0].tolist() for word in (one, other)]
    assert tags[0] == tags[1] != [0] * 8
    model = CountVectorizer(vocabulary=[one]).fit([])
    faster = compiled(model)
    with faster.in_use():
        assert model.transform([f"{one} {other} {other}"]).toarray().tolist() == [[1]]


def word_with_hash(wanted: int) -> str:
    """Return a word of eight letters whose hash has these bits. The last four letters follow from the first ones."""

    def undo_shift(value: int, bits: int) -> int:
        found = value
        for _ in range(5):
            found = value ^ (found >> bits)
        return found

    def rotated(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

    state = undo_shift(wanted, 16)
    state = undo_shift(state * pow(0xC2B2AE35, -1, 1 << 32) & 0xFFFFFFFF, 13)
    state = undo_shift(state * pow(0x85EBCA6B, -1, 1 << 32) & 0xFFFFFFFF, 16) ^ 8
    state = rotated((state - 0xE6546B64) * pow(5, -1, 1 << 32) & 0xFFFFFFFF, 19)
    for first in map("".join, itertools.product(string.ascii_lowercase, repeat=4)):
        (block,) = struct.unpack("<I", first.encode())
        value = rotated(block * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF
        value = (rotated(value, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
        block = rotated((state ^ value) * pow(0x1B873593, -1, 1 << 32) & 0xFFFFFFFF, 17)
        last = struct.pack("<I", block * pow(0xCC9E2D51, -1, 1 << 32) & 0xFFFFFFFF)
        if all(chr(byte) in string.ascii_lowercase for byte in last):
            return first + last.decode()
    raise AssertionError("there is no such word")


@pytest.mark.parametrize("n_features", [1, 3, 1 << 20, 2**31 - 2])
def test_the_smallest_hash_has_the_column_that_scikit_learn_gives_it(n_features: int) -> None:
    word = word_with_hash(0x80000000)
    assert murmurhash3_32(word, seed=0) == -(2**31)
    model = HashingVectorizer(n_features=n_features, norm=None)
    faster = compiled(model)
    documents = [word, word_with_hash(0), word_with_hash(0xFFFFFFFF), f"{word} é"]
    expected = outcome(model, documents)
    with faster.in_use():
        assert outcome(model, documents) == expected


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        ({"york": 0, "city": 2}, "the columns of its vocabulary are not the numbers from 0 on"),
        ({"york": 0, "city": -1}, "the columns of its vocabulary are not the numbers from 0 on"),
        ({"york": 0, "city": 0}, "the columns of its vocabulary are not the numbers from 0 on"),
        ({"york": 0, "café": 9}, "the columns of its vocabulary are not the numbers from 0 on"),
        ({"york": 0, "city": 1 << 70}, "OverflowError"),
        ({"york": 0, "city": 1.0}, "TypeError"),
        ({"york": 0, "city": "1"}, "TypeError"),
        ({"york": 0, 7: 1}, "a term of its vocabulary is not text"),
        ({"york": 0, b"city": 1}, "a term of its vocabulary is not text"),
        ({"york": 0, type("Own", (str,), {})("city"): 1}, "a term of its vocabulary is not text"),
        (["york", "city"], "TypeError"),
        (None, "TypeError"),
    ],
)
@pytest.mark.parametrize("name", ["counts", "weights, plain"])
def test_a_damaged_vocabulary_is_refused(name: str, vocabulary: Any, reason: str) -> None:
    model = fitted(name)
    model.vocabulary_ = vocabulary
    found = compile_estimators([("model", model)])
    assert not found
    assert "because its fitted state is not as expected" in found.summary()
    assert reason in found.summary()


def test_an_empty_vocabulary_is_refused_by_scikit_learn() -> None:
    model = fitted("counts")
    model.vocabulary_ = {}
    found = compile_estimators([("model", model)])
    assert [one.reason for one in found.found] == ["comparing failed (ValueError: Vocabulary is empty)"]


def tokens(text: str) -> list[str]:
    return text.split()


class OwnVectorizer(CountVectorizer):
    """A subclass."""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (CountVectorizer(token_pattern=r"(?u)\b\w+\b"), "its token_pattern is not the default"),
        (TfidfVectorizer(token_pattern=None, tokenizer=tokens), "its token_pattern is not the default"),
        (TfidfVectorizer(tokenizer=tokens), "its tokenizer is not the default"),
        (CountVectorizer(preprocessor=str.upper), "its preprocessor is not the default"),
        (HashingVectorizer(analyzer="char_wb"), "its analyzer is not the default"),
        (CountVectorizer(analyzer=tokens), "its analyzer is not the default"),
        (HashingVectorizer(input="file"), "its input is not the default"),
        (CountVectorizer(strip_accents=str.lower), "its strip_accents is a function"),
        (HashingVectorizer(ngram_range=(1, 9)), "its n-grams have 1 to 9 words"),
        (HashingVectorizer(ngram_range=(0, 1)), "its n-grams have 0 to 1 words"),
        (HashingVectorizer(dtype=np.int8), "its dtype is int8"),
        (CountVectorizer(stop_words=["york", 7]), "a term of its vocabulary is not text"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_rules_are_left_to_scikit_learn(model: Any, reason: str) -> None:
    model.vocabulary_ = {"york": 0}
    found = compile_estimators([("model", model)])
    assert not found
    assert reason in found.summary()
    with pytest.raises(NotPackable):
        compile_vectorizer(model)


def test_what_is_not_known_is_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    held = type("Own", (), {})()
    held.counts = fitted("counts")
    for model in (OwnVectorizer().fit(CORPUS), CountVectorizer(), TfidfVectorizer(), held):
        assert compile_estimators([("model", model)]) == CompiledEstimators()
    own = fitted("counts")
    own.build_analyzer = lambda: tokens
    assert compile_estimators([("model", own)]).summary().endswith("because its method build_analyzer was replaced")
    monkeypatch.setattr(sklearn, "__version__", "1.10.0")
    found = compile_estimators([("model", fitted("hashes"))])
    assert "because the internals of scikit-learn 1.10.0 are not known" in found.summary()


@pytest.mark.parametrize("name", ["counts", "weights", "hashes"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_vectorizer_whose_matrix_differs_is_not_compiled(
    name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(documents: list[Any], *rules: Any) -> Any:
        arrays: Any = right(documents, *rules)
        last = np.frombuffer(arrays[place], np.int32)
        last[-1] += 1 if place else -1
        return arrays

    right = _words.count
    monkeypatch.setattr(_words, "count", count)
    found = compile_estimators([("model", fitted(name))])
    assert not found
    assert [one.name for one in found.found] == [type(fitted(name)).__name__]


def documents_analyzed(kind: type, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which each document is added that scikit-learn splits."""
    found: list[Any] = []
    build: Callable[[Any], Callable[[Any], list[str]]] = vars(_VectorizerMixin)["build_analyzer"]

    def build_analyzer(self: Any) -> Callable[[Any], list[str]]:
        analyze = build(self)

        def analyze_and_note(document: Any) -> list[str]:
            found.append(document)
            return analyze(document)

        return analyze_and_note

    monkeypatch.setattr(kind, "build_analyzer", build_analyzer)
    return found


@pytest.mark.parametrize("name", VECTORIZERS)
def test_only_documents_that_are_not_ascii_are_split_by_scikit_learn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted(name)
    faster = compiled(model)
    analyzed = documents_analyzed(type(model), monkeypatch)
    with faster.in_use():
        model.transform(DOCUMENTS)
    texts = [one.decode() if isinstance(one, bytes) else one for one in analyzed]
    assert len(texts) == sum(not (one.decode() if isinstance(one, bytes) else one).isascii() for one in DOCUMENTS) > 3
    assert not any(one.isascii() for one in texts)


def test_long_documents_and_large_batches_are_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorizers, "_MAX_BYTES", 20)
    model = CountVectorizer().fit(CORPUS)
    methods, _ = compile_vectorizer(model)
    analyzed = documents_analyzed(CountVectorizer, monkeypatch)
    documents = ["york" + " " * 16, "york" + " " * 17, b"york" + b" " * 17, "york"]
    expected = outcome(model, documents)
    analyzed.clear()
    with replaced(model, methods):
        assert outcome(model, documents) == expected
        assert [len(one) for one in analyzed] == [21, 21]
        monkeypatch.setattr(vectorizers, "_MAX_COUNTS", 3)  # as if it were that of int32
        analyzed.clear()
        assert outcome(model, documents) == expected
        assert [len(one) for one in analyzed[-4:]] == [20, 21, 21, 4]


def test_a_vocabulary_that_was_replaced_later_is_used() -> None:
    model = fitted("counts")
    faster = compiled(model)
    model.vocabulary_ = {"york": 1, "city": 0}
    expected = outcome(model, DOCUMENTS)
    with faster.in_use():
        assert outcome(model, DOCUMENTS) == expected
        assert model.fit_transform(CORPUS).shape[1] == len(fitted("counts").vocabulary_)


def test_inconsistent_stop_words_are_warned_about_as_often_as_before() -> None:
    def warned(model: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.transform(["york"])
            model.transform(["york"])
        return [str(one.message) for one in caught]

    model = HashingVectorizer(stop_words=["it's york"])
    faster = compiled(copy.deepcopy(model))
    (other,) = (one.estimator for one in faster.replacements)
    expected = warned(model)
    assert len(expected) == 1
    with faster.in_use():
        assert warned(other) == expected


@pytest.mark.parametrize("name", ["counts", "weights", "hashes", "counts, own stop words"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_made_within_a_batch_has_the_same_results(name: str, copied: Callable[[Any], Any]) -> None:
    model = fitted(name)
    expected = outcome(model, DOCUMENTS)
    faster = compiled(model)
    with faster.in_use():
        found = copied(model)
        assert outcome(found, DOCUMENTS) == expected
    assert outcome(found, DOCUMENTS) == expected


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_vectorizer_from_a_pickle_is_compiled(protocol: int) -> None:
    for name in VECTORIZERS:
        model = pickle.loads(pickle.dumps(fitted(name), protocol))
        faster = compiled(model)
        expected = outcome(model, DOCUMENTS)
        with faster.in_use():
            assert outcome(model, DOCUMENTS) == expected


def test_vectorizers_within_other_estimators_are_compiled() -> None:
    texts = np.array([one for one in DOCUMENTS if isinstance(one, str)] * 3, dtype=object)
    frame = pd.DataFrame({"first": texts, "second": texts[::-1], "number": np.arange(len(texts)) / 7})
    kinds = np.arange(len(texts)) % 2
    models = {
        "pipeline": (1, make_pipeline(TfidfVectorizer(), LogisticRegression()), texts),
        "union": (2, make_union(CountVectorizer(), HashingVectorizer(n_features=9)), texts),
        "columns": (
            2,
            make_pipeline(
                make_column_transformer(
                    (TfidfVectorizer(), "first"), (CountVectorizer(), "second"), ("passthrough", ["number"])
                ),
                SGDClassifier(loss="log_loss", random_state=0),
            ),
            frame,
        ),
        "search": (
            1,
            GridSearchCV(
                make_pipeline(TfidfVectorizer(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2
            ),
            texts,
        ),
    }
    for number, model, x in models.values():
        model.fit(x, kinds)
        method = "predict_proba" if hasattr(model, "predict_proba") else "transform"
        expected = getattr(model, method)(x)
        faster = compile_estimators([("model", model)])
        assert [one.reason for one in faster.found] == [None] * number
        assert faster.summary() == f"{number} of {number} text vectorizers compiled"
        with faster.in_use():
            found = getattr(model, method)(x)
        for one, other in zip(
            *([m] if isinstance(m, np.ndarray) else [m.data] for m in (found, expected)), strict=True
        ):
            assert one.tobytes() == other.tobytes()


def test_every_vectorizer_of_scikit_learn_has_its_own_results() -> None:
    found = []
    for kind in (kind for _, kind in all_estimators() if kind.__module__ == CountVectorizer.__module__):
        for model in filter(is_vectorizer, _construct_instances(kind)):
            model.fit(CORPUS)
            faster = compiled(model)
            expected = outcome(model, DOCUMENTS)
            with faster.in_use():
                assert outcome(model, DOCUMENTS) == expected
            found.append(kind)
    assert set(found) == {CountVectorizer, TfidfVectorizer, HashingVectorizer}


def test_the_compiled_form_takes_less_than_a_third_of_the_memory_of_the_vocabulary() -> None:
    words = [f"word{number}" for number in range(30_000)]
    model = CountVectorizer().fit([" ".join(words)])
    size = sys.getsizeof(model.vocabulary_) + sum(map(sys.getsizeof, itertools.chain(*model.vocabulary_.items())))
    faster = compiled(model)
    assert 0 < faster.nbytes <= size / 3
    assert faster.nbytes == compile_vectorizer(model)[1].nbytes


def test_documents_of_the_comparison_have_every_term_up_to_a_number() -> None:
    terms = [f"term{number}" for number in range(MAX_TERMS * 2 + 1)]
    for count in (1, 100, MAX_TERMS, len(terms)):
        model = CountVectorizer(vocabulary=terms[:count]).fit([])
        seen = model.transform(probe_documents(model.vocabulary_)).getnnz(axis=0)
        assert (seen > 0).sum() >= min(count, MAX_TERMS) * 2 // 3
    assert any("stop" in str(one) for one in probe_documents(["term"], ["stop"]))


@pytest.mark.parametrize("version", [None, 0])
def test_an_extension_of_another_version_is_not_used(version: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extension.is_available()
    if version is None:
        monkeypatch.delattr(_words, "VERSION")
    else:
        monkeypatch.setattr(_words, "VERSION", version)
    assert not extension.is_available()
    assert compile_estimators([("model", fitted("counts"))]) == CompiledEstimators()


def test_arguments_that_do_not_fit_are_refused() -> None:
    methods, counter = compile_vectorizer(fitted("counts"))
    assert methods
    table = counter.vocabulary

    def count(table: Table = table, ngrams: Any = (1, 1), n_features: int = 0) -> Any:
        empty = Table.empty()
        rules = (True, table.terms, table.slots, empty.terms, empty.slots, ngrams[0], ngrams[1], n_features, False)
        return _words.count(["york"], *rules, str.split, counter.columns, np.str_, True, 99, 99)

    assert count() is not None
    for wrong in ({"ngrams": (0, 1)}, {"ngrams": (2, 1)}, {"n_features": -1}):
        with pytest.raises(ValueError, match="the rules are not valid"):
            count(**wrong)
    with pytest.raises(ValueError, match="there is no vocabulary"):
        count(table=Table.empty())
