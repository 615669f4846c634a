"""SIGTERM and Ctrl-C between steps, in processes of their own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.common import ROOT

from glcic_jax.training.signals import StopRequest

# Counts steps until it has to stop; `busy` keeps the main thread in C, as a compiler does.
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


@pytest.fixture
def start():
    started = []

    def start_counting(kind):
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT, kind],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_counting
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "has_reader"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_signal_requests_a_stop_and_old_handlers_come_back(start, number, has_reader):
    process = start("calm")
    if not has_reader:  # Ctrl-C in `python main.py 2>&1 | tee log` ends tee as well.
        process.stderr.close()
    process.send_signal(number)
    word, received, step = process.stdout.readline().split()
    assert (word, int(received)) == ("left", number)
    assert int(step) < 3000
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    if has_reader:
        assert "stopping: this step is finished and saved first" in process.stderr.read()
    else:
        process.stderr = None


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_only_a_later_ctrl_c_quits_at_once_though_the_main_thread_is_busy(start, first):
    process = start("busy")
    process.send_signal(first)
    assert process.stderr.readline() == "\n"
    assert "stopping: this step is finished" in process.stderr.readline()
    process.send_signal(signal.SIGINT)  # Launchers repeat what the terminal has sent.
    process.send_signal(signal.SIGTERM)  # Schedulers send several.
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    errors = process.stderr.read()
    assert "quit: steps since the last checkpoint are lost" in errors
    assert "stopping:" not in errors


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


def test_leaving_restores_everything():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert stop.signal is None
        assert "signals" in (thread.name for thread in threading.enumerate())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    # Not their number: JAX may start and end threads of its own meanwhile.
    assert "signals" not in (thread.name for thread in threading.enumerate())
