"""A hash that is the same in every process, release and machine, and that NumPy can compute for many texts at once.

The hash mixes the length and the bytes, eight at a time, and ends with the finalizer of SplitMix64. It distributes
values and protects nothing.
"""

from __future__ import annotations

import struct

WORD_FACTOR = 0x9FB21C651E98DF25
"""An odd number with which each word of eight bytes is multiplied: that of XXH3's function for short inputs."""
WORD_SHIFT = 29
FINAL = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""The shifts and factors of the finalizer of SplitMix64."""
FINAL_SHIFT = 31
_MASK = (1 << 64) - 1


def hash_bytes(data: bytes) -> int:
    """Return a hash of 64 bits.

    >>> f"{hash_bytes(b''):016x}", f"{hash_bytes(b'de'):016x}"
    ('0000000000000000', '8196cfaf7ffd3564')
    """
    mixed = len(data)
    words = -(-len(data) // 8)
    for word in struct.unpack(f"<{words}Q", data.ljust(8 * words, b"\0")):
        mixed = ((mixed ^ word) * WORD_FACTOR) & _MASK
        mixed ^= mixed >> WORD_SHIFT
    return mix(mixed)


def mix(number: int) -> int:
    """Return a hash of an integer of 64 bits."""
    for shift, factor in FINAL:
        number = ((number ^ (number >> shift)) * factor) & _MASK
    return number ^ (number >> FINAL_SHIFT)
