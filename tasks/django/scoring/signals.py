"""The signal that the job of a row has ended."""

from __future__ import annotations

from django.dispatch import Signal

on_ended = Signal()
"""Sent once for each end of a job, with `sender`, the model that derives from `Scoring`, and `instance`, the row.
For proxies and children of this model, too, the sender is this model.

The signal is sent inside the transaction that records the end. If a receiver raises an error, the end is not recorded,
and the signal is sent again with the next notification or refresh. A receiver that only writes to the same database
therefore takes effect exactly once. A job that is resumed ends again, and then the signal is sent again.
"""
