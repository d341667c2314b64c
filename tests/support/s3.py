"""The settings with which a client finds an embedded S3 server."""

from __future__ import annotations

from scoreline.storage.settings import R2Settings
from scoreline.worker.dev.stack import Stack


def settings_of(stack: Stack) -> R2Settings:
    """Return the address and the credentials of the S3 server of a stack."""
    return R2Settings(
        endpoint_url=stack.environ["R2_ENDPOINT_URL"],
        access_key_id=stack.environ["R2_ACCESS_KEY_ID"],
        secret_access_key=stack.environ["R2_SECRET_ACCESS_KEY"],
    )
