"""The queue in front of a Completer."""

import threading
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import pytest

from glcic_jax.completion.files import CompletionJob, Settings
from glcic_jax.errors import ConfigError, DataError, MemoryExhaustedError, TooLargeError, WeightsError
from glcic_jax.pictures import Hole, Picture, encode_picture, read_picture
from glcic_jax.serving.service import (
    ClientGoneError,
    CompletionRequest,
    Limits,
    NotAnImageError,
    NotReadyError,
    QueueFullError,
    RequestProgress,
    Service,
)

LIMITS = Limits(max_bytes=1 << 20, max_pixels=10_000, queue=3)


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


def request(image: bytes, choose_hole=choose, **settings) -> CompletionRequest:
    return CompletionRequest(image, choose_hole, Settings(**settings))


class Held:
    """Blocks the work until `let_go` is set, where the hole is chosen."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, picture):
        self.begun.set()
        assert self.let_go.wait(60)
        return choose(picture)


def test_result_equals_a_completion_job(service, completer):
    service.warm_up((), print)
    with service.queue_place():
        result = service.submit(request(png(), blend="on"), threading.Event(), RequestProgress()).result(60)
    notes = []
    job = CompletionJob.create(read_picture(png(), "a"), choose, Settings(blend="on"))
    expected = job.run(completer, notes.append)
    assert result.content == expected
    assert result.file_format == "PNG"
    assert list(result.notes) == notes
    assert "a note" in notes
    assert min(result.waited, result.read, result.completed) >= 0


def test_requests_are_completed_one_at_a_time_in_order(service):
    held, done = Held(), []
    with service.queue_place():
        first = service.submit(request(png(), held), threading.Event(), RequestProgress())
        assert held.begun.wait(60)
        others = [service.submit(request(png()), threading.Event(), RequestProgress()) for _ in range(3)]
        for index, future in enumerate(others):
            future.add_done_callback(lambda _, index=index: done.append(index))
        with pytest.raises(NotYet):
            others[0].result(0.2)
        held.let_go.set()
        results = [future.result(60) for future in (first, *others)]
    assert done == [0, 1, 2]
    assert [result.waited >= 0.2 for result in results] == [False, True, True, True]


def test_full_queue_refuses_until_a_place_is_free(service):
    with service.queue_place(), service.queue_place():
        with service.queue_place(), pytest.raises(QueueFullError, match="all 3 places"), service.queue_place():
            pass
        with service.queue_place():
            pass


def test_request_of_a_gone_client_is_skipped(service):
    held, gone = Held(), threading.Event()
    with service.queue_place():
        service.submit(request(png(), held), threading.Event(), RequestProgress())
        waiting = service.submit(request(png()), gone, RequestProgress())
        gone.set()
        held.let_go.set()
        with pytest.raises(ClientGoneError):
            waiting.result(60)


def test_work_ends_after_the_window_at_which_the_client_goes(service):
    def two_holes(picture):
        hole = np.zeros(picture.pixels.shape[:2], bool)
        hole[4:8, 4:8] = hole[4:8, -8:-4] = True
        return picture, Hole(hole, ())

    class Leaving(RequestProgress):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "windows" and value:
                gone.set()

    gone, progress = threading.Event(), Leaving()
    wide = request(png(24, 400), two_holes, strategy="crop", max_side=200)
    with service.queue_place(), pytest.raises(ClientGoneError):
        service.submit(wide, gone, progress).result(60)
    assert (progress.windows_done, progress.windows) == (1, 2)


def test_each_failure_has_its_error_class(service):
    def refuse(picture):
        raise DataError("mask: none")

    cases = [
        (request(b"no picture"), NotAnImageError),
        (request(png(200, 200)), TooLargeError),
        (request(png(), refuse), DataError),
        (request(png())._replace(weights="unknown"), WeightsError),
    ]
    for asked, kind in cases:
        with service.queue_place(), pytest.raises(kind) as caught:
            service.submit(asked, threading.Event(), RequestProgress()).result(60)
        assert type(caught.value) is kind
    with service.queue_place():
        assert (
            service.submit(request(png())._replace(weights="other"), threading.Event(), RequestProgress())
            .result(60)
            .content
        )


def test_stopping_finishes_requests_and_accepts_no_more(completer):
    service, held = Service({"tiny": completer}, LIMITS), Held()
    with service.queue_place():
        future = service.submit(request(png(), held), threading.Event(), RequestProgress())
        assert held.begun.wait(60)
        service.stop_accepting()
        with pytest.raises(NotReadyError), service.queue_place():
            pass
        assert not service.idle
        held.let_go.set()
        assert future.result(60).content
    assert service.idle
    assert service.close()
    for begin in (
        lambda: service.submit(request(png()), threading.Event(), RequestProgress()),
        lambda: service.preview(png(), threading.Event()),
    ):
        with pytest.raises(NotReadyError):
            begin()
    service.warm_up([(32, 40)], print)
    assert not service.warm


def test_close_cancels_requests_after_the_current_window(completer):
    service, held, gone = Service({"tiny": completer}, LIMITS), Held(), threading.Event()
    with service.queue_place():
        future = service.submit(request(png(), held), gone, RequestProgress())
        waiting = service.submit(request(png()), gone, RequestProgress())
        assert held.begun.wait(60)
        assert not service.close()
        held.let_go.set()
        with pytest.raises(ClientGoneError):
            future.result(60)
        assert waiting.cancelled()


def test_service_warms_up_while_nothing_is_in_progress(completer):
    service, lines = Service({"tiny": completer}, LIMITS), []
    with service.queue_place() as place:
        warming = threading.Thread(target=service.warm_up, args=([(32, 40)], lines.append))
        warming.start()
        result = service.submit(request(png()), threading.Event(), place).result(60)
        assert any("still warming up" in note for note in result.notes)
        assert not service.warm
        assert lines == []
    warming.join(60)
    assert service.warm
    assert lines[0].startswith("compiled for windows of 40 x 32 px")
    with service.queue_place() as place:
        result = service.submit(request(png()), threading.Event(), place).result(60)
    assert not any("warming up" in note for note in result.notes)
    assert service.close()
    assert not service.accepting


def test_progress_of_a_request_is_known_by_its_name(service):
    held, gone = Held(), threading.Event()
    assert service.progress_of("first") is None
    with (
        service.queue_place("first") as first,
        service.queue_place("second") as second,
        service.queue_place() as third,
    ):
        assert service.progress_of("first") == (first, 0)
        assert first.submitted is None
        one = service.submit(request(png(), held), gone, first)
        others = [service.submit(request(png()), gone, place) for place in (third, second)]
        assert held.begun.wait(60)
        assert service.progress_of("first") == (first, 0)
        assert first.working
        assert service.progress_of("second") == (second, 2)
        held.let_go.set()
        for future in (one, *others):
            future.result(60)
        assert (first.windows_done, first.windows) == (1, 1)
    assert service.progress_of("second") is None


def test_name_of_a_request_is_taken_while_it_is_in_progress(service):
    with service.queue_place("first"):
        with pytest.raises(ConfigError, match="another request is called first"), service.queue_place("first"):
            pass
        with service.queue_place("second"):
            pass
    with service.queue_place("first"):
        pass


def test_preview_does_not_wait_for_completions(service):
    held, gone = Held(), threading.Event()
    with service.queue_place():
        service.submit(request(png(), held), threading.Event(), RequestProgress())
        assert service.preview(png(), gone).result(30).size == (48, 40)
        held.let_go.set()
    with pytest.raises(NotAnImageError, match=r"^image: "):
        service.preview(b"no", gone).result(30)
    gone.set()
    with pytest.raises(ClientGoneError):
        service.preview(png(), gone).result(30)


def test_warm_up_goes_on_after_a_size_that_fails(completer, monkeypatch):
    sizes, lines = [], []

    def warmup(size, strategy):
        sizes.extend(size)
        if len(sizes) == 1:
            raise MemoryExhaustedError("too little memory")

    monkeypatch.setattr(completer, "warmup", warmup)
    service = Service({"tiny": completer}, LIMITS)
    service.warm_up([(32, 40), (64, 64)], lines.append)
    assert sizes == [(32, 40), (64, 64)]
    assert service.warm
    assert lines[0] == "not compiled for windows of 40 x 32 px: too little memory"
    assert lines[1].startswith("compiled for windows of 64 x 64 px")
