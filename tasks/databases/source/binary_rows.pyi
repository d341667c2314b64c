from collections.abc import Buffer, Sequence

def decode(
    data: Buffer, start: int, kinds: bytes, precisions: Sequence[int], scales: Sequence[int]
) -> tuple[int, list[tuple[bytes | None, bytes, bytes | None, int]]]:
    """Decode rows.

    Parameters
    ----------
    data : buffer
        Whole rows, which may be followed by the trailer of the format.
    start : int
        Where the first row begins: behind the header.
    kinds : bytes
        The kind of each column (see `types.Column.binary`).
    precisions, scales : sequence of int
        Of each column; only those of decimals count.

    Returns
    -------
    rows : int
        The number of rows.
    columns : list of tuple
        The bits of valid values, if a value is null; values or offsets; texts; and the number of nulls.

    Raises
    ------
    ValueError
        Its argument is the number of a column that has a value that cannot be kept; -1 if the bytes are no rows.
    """
