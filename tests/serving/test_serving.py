"""One network that many ask."""

import threading
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import pytest
from helpers.tiny import tiny_weights

from glcic_jax.completion.completer import Completer
from glcic_jax.completion.files import CompletionJob, Settings
from glcic_jax.errors import DataError, TooLargeError, WeightsError
from glcic_jax.pictures import Hole, Picture, encode_picture, read_picture
from glcic_jax.serving.service import BusyError, GoneError, Limits, NotAnImageError, NotReadyError, Order, Service

LIMITS = Limits(max_bytes=1 << 20, max_pixels=10_000, queue=3)


@pytest.fixture(scope="module")
def completer() -> Completer:
    return Completer(tiny_weights())


@pytest.fixture
def service(completer):
    made = Service({"tiny": completer, "other": completer}, LIMITS)
    yield made
    made.close()


def png(height=40, width=48) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return encode_picture(Picture(pixels, "PNG"), "PNG")


def choose(picture: Picture) -> tuple[Picture, Hole]:
    hole = np.zeros(picture.pixels.shape[:2], bool)
    hole[8:16, 8:20] = True
    return picture, Hole(hole, ("a note",))


def order(image: bytes, choose_hole=choose, **settings) -> Order:
    return Order(image, choose_hole, Settings(**settings))


class Held:
    """A hole that is chosen when it is let go: the work stands still there."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, picture):
        self.begun.set()
        assert self.let_go.wait(60)
        return choose(picture)


def test_the_result_is_that_of_a_file(service, completer):
    with service.admitted():
        result = service.submit(order(png(), blend=True), threading.Event()).result(60)
    notes = []
    job = CompletionJob.create(read_picture(png(), "a"), choose, Settings(blend=True))
    expected = job.run(completer, notes.append)
    assert result.content == expected
    assert result.file_format == "PNG"
    assert list(result.notes) == notes
    assert "a note" in notes
    assert min(result.waited, result.read, result.completed) >= 0


def test_orders_are_done_one_after_the_other_in_their_order(service):
    held, done = Held(), []
    with service.admitted():
        first = service.submit(order(png(), held), threading.Event())
        assert held.begun.wait(60)
        others = [service.submit(order(png()), threading.Event()) for _ in range(3)]
        for index, future in enumerate(others):
            future.add_done_callback(lambda _, index=index: done.append(index))
        with pytest.raises(NotYet):
            others[0].result(0.2)
        held.let_go.set()
        results = [future.result(60) for future in (first, *others)]
    assert done == [0, 1, 2]
    assert [result.waited >= 0.2 for result in results] == [False, True, True, True]


def test_a_full_queue_takes_nothing_until_a_place_is_free(service):
    with service.admitted(), service.admitted():
        with service.admitted(), pytest.raises(BusyError, match="3 requests"), service.admitted():
            pass
        with service.admitted():
            pass


def test_nobody_is_worked_for_who_has_gone(service):
    held, gone = Held(), threading.Event()
    with service.admitted():
        service.submit(order(png(), held), threading.Event())
        waiting = service.submit(order(png()), gone)
        gone.set()
        held.let_go.set()
        with pytest.raises(GoneError):
            waiting.result(60)


def test_work_ends_after_the_window_at_which_its_client_goes(service):
    def two_holes(picture):
        hole = np.zeros(picture.pixels.shape[:2], bool)
        hole[4:8, 4:8] = hole[4:8, -8:-4] = True
        return picture, Hole(hole, ())

    gone, seen = threading.Event(), []

    def on_window(done, count):
        seen.append((done, count))
        gone.set()

    wide = order(png(24, 400), two_holes, strategy="crop", max_side=200)
    with service.admitted(), pytest.raises(GoneError):
        service.submit(wide, gone, on_window).result(60)
    assert seen == [(1, 2)]


def test_what_cannot_be_done_is_an_error_of_its_kind(service):
    def refuse(picture):
        raise DataError("mask: none")

    cases = [
        (order(b"no picture"), NotAnImageError),
        (order(png(200, 200)), TooLargeError),
        (order(png(), refuse), DataError),
        (order(png())._replace(weights="unknown"), WeightsError),
    ]
    for asked, kind in cases:
        with service.admitted(), pytest.raises(kind) as caught:
            service.submit(asked, threading.Event()).result(60)
        assert type(caught.value) is kind
    with service.admitted():
        assert service.submit(order(png())._replace(weights="other"), threading.Event()).result(60).content


def test_what_was_taken_goes_on_and_nothing_more_is_taken(completer):
    service, held = Service({"tiny": completer}, LIMITS), Held()
    with service.admitted():
        future = service.submit(order(png(), held), threading.Event())
        assert held.begun.wait(60)
        service.refuse()
        with pytest.raises(NotReadyError), service.admitted():
            pass
        assert not service.idle
        held.let_go.set()
        assert future.result(60).content
    assert service.idle
    assert service.close()
    for begin in (lambda: service.submit(order(png()), threading.Event()), lambda: service.preview(png, "a", id)):
        with pytest.raises(NotReadyError):
            begin()
    service.warm_up((), print)
    assert not service.ready


def test_what_is_given_up_ends_after_its_window(completer):
    service, held, gone = Service({"tiny": completer}, LIMITS), Held(), threading.Event()
    with service.admitted():
        future = service.submit(order(png(), held), gone)
        waiting = service.submit(order(png()), gone)
        assert held.begun.wait(60)
        assert not service.close()
        held.let_go.set()
        with pytest.raises(GoneError):
            future.result(60)
        assert waiting.cancelled()


def test_it_is_ready_once_it_is_warm(completer):
    service, lines = Service({"tiny": completer}, LIMITS), []
    assert not service.ready
    service.warm_up([(32, 40)], lines.append)
    assert service.ready
    assert lines[0].startswith("ready for windows of 40 x 32 px")
    assert service.close()
    assert not service.ready


def test_a_preview_passes_the_queue(service):
    held = Held()
    with service.admitted():
        service.submit(order(png(), held), threading.Event())
        assert service.preview(png, "a", lambda picture: picture.size).result(30) == (48, 40)
        held.let_go.set()
    with pytest.raises(NotAnImageError, match=r"^a\.txt: "):
        service.preview(lambda: b"no", "a.txt", lambda picture: picture).result(30)
