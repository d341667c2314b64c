"""Publishing cleans up when it is stopped by a signal."""

from __future__ import annotations

import signal

import pytest

from scoreline.worker.cli.publish_progress import ending_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_as_an_error_does(number: signal.Signals) -> None:
    given = signal.signal(number, signal.SIG_DFL)  # nohup may have run the tests
    try:
        _end_by(number)
    finally:
        signal.signal(number, given)


def _end_by(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, ending_on_signals():
        signal.raise_signal(number)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ending_on_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
