"""Describe a version in the format of a `pins` board, so that `pins.board_s3` and `pins.board_folder` can read it."""

from __future__ import annotations

import json

from scoreline.storage.models.manifest import Manifest

_API_VERSION = 1


def data_txt(manifest: Manifest) -> bytes:
    """Return the content of ``data.txt`` as JSON, which is also valid YAML.

    A version with one artifact has the type ``joblib``, which ``pin_read`` can load. A version with several artifacts
    has the type ``file``, which ``pin_download`` can fetch. Only such a version lists its attachments as files too,
    because an entry of the type ``joblib`` has exactly one file.
    """
    files = [artifact.file for artifact in manifest.artifacts]
    sizes = [artifact.size for artifact in manifest.artifacts]
    single = len(files) == 1
    if not single:
        files += manifest.attachments
        sizes += [attachment.size for attachment in manifest.attachments.values()]
    entry = {
        "file": files[0] if single else files,
        "file_size": sizes[0] if single else sizes,
        "pin_hash": manifest.content_sha256[:16],
        "type": "joblib" if single else "file",
        "title": f"{manifest.name}: {', '.join(manifest.outputs)}",
        "description": None,
        "tags": None,
        "urls": None,
        "created": manifest.version.partition("-")[0],
        "api_version": _API_VERSION,
        "user": dict(manifest.metadata),
    }
    return json.dumps(entry, indent=1, ensure_ascii=False).encode()
