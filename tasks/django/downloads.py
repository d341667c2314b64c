"""Sends an object to a browser: from the store itself, by an address that is valid for minutes, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from django.http import HttpResponse, HttpResponseRedirect, StreamingHttpResponse

from scoreline.storage.objects.base import ObjectInfo, ObjectStore, PresignsReads
from scoreline.tasks.django.settings import Downloads

VALID_S = 300
"""Number of seconds for which an address is valid. A download that has begun may take longer."""
_PIECE_BYTES = 4 << 20


def download(
    store: ObjectStore, info: ObjectInfo, filename: str, way: Downloads, *, head: bool = False
) -> HttpResponse | StreamingHttpResponse:
    """Return the answer that makes a browser save an object as a file.

    Parameters
    ----------
    way : str
        See `PageSettings.downloads`.
    head : bool
        Whether only the headers are asked for. A store would refuse an address that is signed for the bytes.
    """
    disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    if not head and isinstance(store, PresignsReads) and (way == "presigned" or (way == "auto" and store.uses_https)):
        answer = HttpResponseRedirect(store.presign_read(info.key, seconds=VALID_S, disposition=disposition))
        answer["Referrer-Policy"] = "no-referrer"
        return answer
    streamed = StreamingHttpResponse(() if head else _pieces(store, info), content_type="application/octet-stream")
    streamed["Content-Length"] = str(info.size)
    streamed["Content-Disposition"] = disposition
    streamed["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return streamed


def _pieces(store: ObjectStore, info: ObjectInfo) -> Iterator[bytes]:
    """Yield the bytes of one version of an object, with one piece in memory at a time."""
    for start in range(0, info.size, _PIECE_BYTES):
        stop = min(info.size, start + _PIECE_BYTES)
        yield store.get(info.key, byte_range=(start, stop), if_match=info.etag).data
