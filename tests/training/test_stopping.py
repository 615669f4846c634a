"""SIGTERM and Ctrl-C between steps; each in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.common import ROOT

from glcic_jax.training.signals import StopRequest

# Counts steps until it is to stop; `busy` keeps the main thread in C, as a compiler does.
COUNT = """
import sys, time
from glcic_jax.training.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    if sys.argv[1] == "busy":
        import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    step = 0
    while not stop.is_due(step) and step < 3000:
        time.sleep(0.02); step += 1
print("left", stop.signal, step, flush=True)
time.sleep(30)
"""


def begin(how="calm"):
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, how],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    process.kill()
    return process.communicate()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_old_handlers_come_back(number):
    process = begin()
    process.send_signal(number)
    word, came, step = process.stdout.readline().split()
    assert (word, int(came)) == ("left", number)
    assert int(step) < 3000
    # Outside, a signal does what it always did.
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert "stopping: this step is finished and saved first" in process.stderr.read()


def test_a_second_ctrl_c_quits_at_once_though_the_main_thread_is_busy():
    process = begin("busy")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert "quit: what was not saved is lost" in process.stderr.read()


def test_a_ctrl_c_that_comes_twice_at_once_is_one():
    # Launchers pass on what the terminal has sent already.
    process = begin("busy")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    process.communicate()


def test_a_reader_that_has_gone_changes_nothing():
    # Ctrl-C in `python main.py 2>&1 | tee log` ends tee as well.
    process = begin()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline().split()[:2] == ["left", str(int(signal.SIGINT))]
    process.kill()
    process.wait()


def test_a_second_sigterm_changes_nothing():
    # Schedulers send several.
    process = begin("busy")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.poll() is None
    assert end(process).count("stopping:") == 1


def test_outside_the_main_thread_nothing_is_set():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with StopRequest() as stop:
            seen.append((stop.is_due(0), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_entering_and_leaving_restores_everything():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert stop.signal is None
        assert "signals" in (thread.name for thread in threading.enumerate())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    # Not their number: JAX starts one where it looks for a TPU, which ends when it likes.
    assert "signals" not in (thread.name for thread in threading.enumerate())
