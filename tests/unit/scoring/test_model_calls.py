from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Never

import pytest

from scoreline.tasks.scoring.model_calls import ModelExit, call_model, first_line
from tests.support.bundles import scored


class Panic(BaseException):
    """An exception like those of libraries written in Rust."""


def raising(error: BaseException) -> Callable[[], Never]:
    def function() -> Never:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(3), "SystemExit: 3 (the model's code tries to end its process: have it raise an error instead)"),
        (SystemExit("bad row"), "SystemExit: bad row (the model's code"),
        (SystemExit(), "SystemExit (the model's code"),
        (Panic("index out of bounds"), "Panic: index out of bounds (the model's code"),
    ],
    ids=lambda item: type(item).__name__ if not isinstance(item, str) else "",
)
def test_a_model_cannot_end_its_process(error: BaseException, said: str) -> None:
    with pytest.raises(ModelExit) as caught:
        call_model(raising(error))
    assert first_line(caught.value).startswith(said.partition(" (")[0])


def test_an_error_of_a_model_is_passed_on_as_it_is() -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:
        call_model(raising(error))
    assert caught.value is error


def test_ctrl_c_ends_a_command_but_not_a_worker() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_model(raising(KeyboardInterrupt()))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with pytest.raises(ModelExit, match="KeyboardInterrupt"):
            call_model(raising(KeyboardInterrupt()))
    finally:
        signal.signal(signal.SIGINT, before)


TERMINATED = """
import os, signal, sys
from billiard.common import reset_signals
from scoreline.tasks.scoring.model_calls import call_model

signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, which billiard replaces by its own
reset_signals()


def model():
    if "swallows" in sys.argv:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            return 1.0
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        if "fails" in sys.argv:
            raise ValueError("connection is closed")


try:
    call_model(model)
except SystemExit:
    print("ends")
"""


@pytest.mark.parametrize("how", ["passes", "swallows", "fails"])
def test_a_process_that_must_terminate_does_so_even_if_the_model_catches_the_signal(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATED, how], capture_output=True, text=True, env=dict(os.environ))
    assert (done.stdout, done.stderr) == ("ends\n", "")


class Leaves:
    """A model that calls ``sys.exit`` for some rows, as scripts do."""

    def fit(self, x: Any, y: Any = None) -> Leaves:
        return self

    def predict(self, x: Any) -> Any:
        if (x[:, 0] > 1).any():
            sys.exit("value is too large")
        return x[:, 0]


def test_a_row_for_which_a_model_calls_exit_is_rejected() -> None:
    done = scored(Leaves(), a=[0.0, 5.0, 1.0])
    assert {row: str(why).partition(" (")[0] for row, why in done.rejected.items()} == {
        1: "SystemExit: value is too large"
    }
