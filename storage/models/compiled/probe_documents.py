"""Documents on which a compiled text vectorizer is compared with scikit-learn, made from its own vocabulary."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

MAX_TERMS = 50_000
"""Maximum number of terms of a vocabulary that the documents contain. All terms are looked up when it is compiled."""
_TERMS_OF_DOCUMENT = 40
_BETWEEN = (" ", ", ", "\n", "-", " a ", ". ", "\t", "'", "  I ", "/", " _ ", "\x00", " 7 ", "\x7f")
"""What stands between terms. A single letter, digit or underscore is no word, so words on both sides are neighbours."""
_FIXED = (
    "",
    " ",
    "!?... --- ''",
    "a",
    "a b c I 1 _",
    "_ __ _a a_b __init__ 1_2",
    "0 12 3.14 007 1e10 0x1F",
    "A1 b2 HTML5 iPhone iOS",
    "it's don't o'clock rock'n'roll",
    "new a york new york NEW_YORK new-york",
    "x" * 41,
    *(letter * length for length, letter in enumerate("abcdefghijklmnopq", 1)),
    "".join(map(chr, range(128))),
    " ".join(f"ab{chr(code)}cd" for code in range(128)),
    " ".join(f"{chr(code)}{chr(code)}" for code in range(128)),
    "caf\xe9 na\xefve Stra\xdfe \xc4\xd6\xdc",
    "\u0130stanbul \u212aelvin \u017fong",
    "one\xa0two\u2003three \u4e2d\u6587 \U0001f600 \u0661\u0662",
    "e\u0301t\xe9 \xaa\xba",
)
_WORDS = "the quick brown fox jumps over a lazy dog while seven machines count 12345 words_of_text in 0 seconds"


def probe_documents(terms: Collection[Any], stop_words: Iterable[str] = ()) -> list[str | bytes]:
    """Return documents of the terms of a vocabulary, which may be empty, and others with words of every kind.

    Some terms are in upper case, or have a single letter, punctuation or a stop word between them. Some documents are
    not ASCII, some are bytes, and some are long.
    """
    step = -(-len(terms) // MAX_TERMS) or 1
    chosen = [str(term) for term in itertools.islice(terms, 0, None, step)] or _made_up_words()
    stops = sorted(stop_words)
    stops = stops[:: max(len(stops) // 100, 1)]
    documents: list[str | bytes] = [*_FIXED, _WORDS, _WORDS.title(), _WORDS.encode(), f"\xe4 {_WORDS}".encode()]
    for number, group in enumerate(itertools.batched(chosen, _TERMS_OF_DOCUMENT)):
        text = _joined(group, number)
        documents.append(text.upper() if number % 7 == 3 else text.title() if number % 7 == 5 else text)
    some = chosen[:: max(len(chosen) // 400, 1)]
    documents += [" ".join(stops), f" {some[0]} ".join(stops), _joined(some, 0), " ".join(some[::-1] + some + some)]
    documents += [f"{first} {stop} {second}" for first, stop, second in zip(some, stops, some[1:], strict=False)]
    documents += [f"{first} \xe9t\xe9 {second}" for first, second in itertools.pairwise(some[:50])]
    documents += list(_seams(some))
    return documents


def _joined(terms: Sequence[str], number: int) -> str:
    between = itertools.islice(itertools.cycle(_BETWEEN), number, None)
    return "".join(itertools.chain.from_iterable(zip(terms, between, strict=False)))


def _seams(terms: Sequence[str]) -> Iterator[str]:
    """Yield pieces of terms of several words beside other terms, and words that are almost terms."""
    for one, other in itertools.pairwise(terms):
        first, _, rest = one.partition(" ")
        yield f"{rest} {other} {first} {one[:-1]} {one}x {other[1:]} {first} {rest}"


def _made_up_words() -> list[str]:
    """Return words for a vectorizer that has no vocabulary."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789_"))
    text = "".join(random.choice(letters, 60_000))
    return [text[20 * number : 20 * number + 2 + number % 19] for number in range(3_000)]
