"""The audit: who has changed what, when and from where.

`scoreline.storage.audit` writes the lines, because models are changed there too; `reading` finds and reads them.
"""

from scoreline.storage.audit import record

__all__ = ["record"]
