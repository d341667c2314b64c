"""A TLS endpoint in front of Redis, like that of managed services. The endpoint passes all bytes on.

::

    python -m tests.support.tls PORT PORT_BEHIND CERTIFICATE_WITH_KEY.pem
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys


async def serve(port: int, behind: int, certificate: str) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, ahead = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(copy(reader, ahead), copy(back, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(connect, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
