"""Signals that ask a run to stop."""

import signal

import pytest

from score_sde.training.preemption import StopRequest


def test_sigterm_is_remembered_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.reached(1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.reached(2) and stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def interrupts():
    """The handler of SIGINT that Python starts with, which a test run in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_second_ctrl_c_interrupts(interrupts):
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.reached(1) and stop.reason == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored(interrupts):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.reached(1)
