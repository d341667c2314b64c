MORE: int
"""The block has as many bytes as it should."""
SILENT: int
"""The server has sent nothing for the given time."""
DONE: int
"""There are no more rows."""
FAILED: int
"""The connection failed."""

class Block:
    """Memory for rows that COPY sends. It has the buffer protocol, and is used again after `clear`.

    Parameters
    ----------
    functions : tuple of int
        The addresses of ``PQgetCopyData``, ``PQconsumeInput`` and ``PQfreemem``.
    room : int
        Number of bytes to allocate at first.
    """

    def __init__(self, functions: tuple[int, int, int], room: int) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def clear(self) -> None:
        """Forget the rows; raises `BufferError` while the buffer is in use."""

    def receive(self, connection: int, socket: int, enough: int, timeout_ms: int) -> int:
        """Append rows until the block has enough bytes. It then ends with a whole row.

        Parameters
        ----------
        connection, socket : int
            The address of the ``PGconn``, and its socket.
        enough : int
            Number of bytes.
        timeout_ms : int
            Milliseconds to wait for the server.

        Returns
        -------
        int
            `MORE`, `SILENT`, `DONE` or `FAILED`.
        """
