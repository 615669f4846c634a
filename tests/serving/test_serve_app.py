"""The endpoint, in this process: its answers and its refusals."""

import dataclasses
import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from helpers.common import command_runner
from helpers.served import image, mask, png_of
from PIL import Image
from serving.test_serving import LIMITS
from starlette.testclient import TestClient

from glcic_jax.commands.main import cli
from glcic_jax.completion.windows import STRATEGIES
from glcic_jax.serving import api
from glcic_jax.serving.api import create_app
from glcic_jax.serving.forms import Options, in_words_of_the_form
from glcic_jax.serving.service import Service


@pytest.fixture
def service(completer):
    made = Service({"tiny": completer, "other": completer}, LIMITS)
    made.warm_up((), print)
    yield made
    made.close()


@pytest.fixture
def client(service):
    return TestClient(create_app(service), raise_server_exceptions=False)


def send(client, picture=None, hole=None, **options):
    files = {"image": ("a.png", image() if picture is None else picture)}
    if hole is not False:
        files["mask"] = ("m.png", mask() if hole is None else hole)
    return client.post("/v1/complete", files=files, data=options)


def assert_problem(answer, status) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert set(content) == {"type", "title", "status", "detail"}
    assert content["status"] == status
    assert len(content["detail"].splitlines()) == 1
    return content["detail"]


def test_white_of_the_mask_is_completed(client):
    answer = send(client)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    before, after = (np.asarray(Image.open(io.BytesIO(content))) for content in (image(), answer.content))
    hole = np.asarray(Image.open(io.BytesIO(mask()))) > 0
    np.testing.assert_array_equal(before[~hole], after[~hole])
    assert (before[hole] != after[hole]).mean() > 0.5
    timings = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(timings) == {"upload", "queue", "read", "complete"}
    assert all(float(value) >= 0 for value in timings.values())
    assert answer.headers["x-glcic-weights"] == "tiny"
    assert any("the hole covers" in note for note in json.loads(answer.headers["x-glcic-notes"]))


@pytest.mark.parametrize(
    ("kind", "keep_exif", "flags", "options"),
    [
        ("PNG", True, [], {}),
        ("JPEG", False, [], {}),
        ("JPEG", True, ["--blend", "on", "--grow", "3"], {"blend": "on", "grow": "3"}),
        ("PNG", False, ["--strategy", "crop", "--max-side", "200"], {"strategy": "crop", "max_side": "200"}),
        ("PNG", True, ["--format", "jpeg", "--quality", "60"], {"format": "jpeg", "quality": "60"}),
        ("JPEG", False, ["--invert-mask"], {"invert_mask": "true"}),
    ],
)
def test_command_and_endpoint_give_the_same_bytes(client, weights, tmp_path, kind, keep_exif, flags, options):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    picture = image(kind=kind, exif=exif)
    (tmp_path / "in").write_bytes(picture)
    (tmp_path / "mask.png").write_bytes(mask())
    arguments = ["complete", str(tmp_path / "in"), str(tmp_path / "mask.png"), "-", "--weights", str(weights)]
    done = command_runner().invoke(cli, [*arguments, *flags, *([] if keep_exif else ["--drop-exif"])])
    assert done.exit_code == 0, done.stderr
    answer = send(client, picture, keep_exif=str(keep_exif).lower(), **options)
    assert answer.content == done.stdout_bytes
    assert (b"a camera" in answer.content) == keep_exif


def test_hole_may_be_transparent_or_random(client):
    picture = image("RGBA")
    answer = send(client, picture, hole=False, alpha_mask="true")
    before, after = (np.asarray(Image.open(io.BytesIO(content))) for content in (picture, answer.content))
    hole = before[..., 3] < 250
    assert (after[..., 3] == 255).all()
    np.testing.assert_array_equal(before[~hole, :3], after[~hole, :3])
    one, same, other = (send(client, hole=False, random_mask="true", seed=seed) for seed in ("1", "1", "2"))
    assert one.content == same.content != other.content


def test_place_and_time_are_dropped_unless_kept(client):
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x0132] = "2001:02:03 04:05:06"
    picture = image(kind="JPEG", exif=exif)
    kept, dropped = (Image.open(io.BytesIO(send(client, picture, keep_exif=k).content)) for k in ("1", "0"))
    assert kept.getexif()[0x0132] == "2001:02:03 04:05:06"
    assert kept.getexif().get_ifd(0x8825)[1] == "N"
    assert not dropped.getexif()


def test_too_large_files_are_413(client):
    assert "at most 10,000 are read" in assert_problem(send(client, image(size=(200, 200))), 413)
    detail = assert_problem(send(client, png_of(60_000, 60_000)), 413)
    assert "--max-pixels" not in detail  # Who sends a picture cannot give it.
    assert detail.startswith("image: has 60000 x 60000")
    assert assert_problem(send(client, hole=png_of(60_000, 60_000)), 413).startswith("mask: has")
    over = b"\0" * (LIMITS.max_bytes + 1)
    assert assert_problem(send(client, over), 413).startswith("image: a file may have at most 1,048,576 bytes")
    assert assert_problem(send(client, hole=over), 413).startswith("mask: a file may have at most")
    assert assert_problem(send(client, over * 3), 413).startswith("the request: a file may have at most")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_unreadable_image_is_415(client, content):
    assert assert_problem(send(client, content), 415).startswith("image: ")


def test_truncated_image_is_415(client):
    assert_problem(send(client, image(kind="JPEG")[:-200]), 415)


def test_other_content_type_is_415(client):
    assert "multipart/form-data" in assert_problem(client.post("/v1/complete", json={"image": "a"}), 415)


def test_mask_problems_are_422_with_the_message_of_the_command(client, tmp_path, weights):
    (tmp_path / "in.png").write_bytes(image())
    for hole in (mask((30, 40)), b"hello", mask((48, 40))[:60]):
        (tmp_path / "mask").write_bytes(hole)
        arguments = ["complete", str(tmp_path / "in.png"), str(tmp_path / "mask"), "-"]
        done = command_runner().invoke(cli, [*arguments, "--weights", str(weights)])
        said = str(done.exception).replace(str(tmp_path / "mask"), "mask").replace("--fit-mask", "fit_mask=true")
        assert assert_problem(send(client, hole=hole), 422) == said
    assert "no transparency" in assert_problem(send(client, hole=False, alpha_mask="true"), 422)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"strategy": "best"}, "strategy: send one of auto, original, resize, crop"),
        ({"max_side": "1"}, "max_side: send a whole number from "),
        ({"max_side": "100000"}, "max_side: send a whole number from "),
        ({"grow": "-1"}, "grow: send a whole number from 0 to 10000"),
        ({"grow": "many"}, "grow: send a whole number from 0 to 10000"),
        ({"seed": "-1"}, "seed: send a whole number from 0 to 9223372036854775807"),
        ({"blend": "perhaps"}, "blend: send one of auto, on, off"),
        ({"format": "a" * 17}, "format: send a short text"),
        ({"format": "gif"}, "gif"),
        ({"quality": "0"}, "quality"),
        ({"weights": "/etc/passwd"}, "no such weights here"),
        ({"invert": "true"}, "invert"),
        ({"random_mask": "true"}, "one of"),
        ({"url": "http://127.0.0.1/"}, "url: there is no such option: there are alpha_mask, blend, fit_mask"),
        ({"blnd": "on"}, "blnd: there is no such option: did you mean blend?"),
    ],
)
def test_wrong_options_are_422(client, options, named):
    assert named in assert_problem(send(client, **options), 422)


def test_options_in_the_address_are_422(client):
    files = {"image": ("a.png", image()), "mask": ("m.png", mask())}
    for path in ("/v1/complete", "/v1/preview"):
        answer = client.post(f"{path}?blend=true", files=files)
        assert assert_problem(answer, 422) == "blend: is in the address: send it as a part of the form"
        answer = client.post(f"{path}?blnd=true", files=files)
        assert assert_problem(answer, 422) == "blnd: there is no such option: did you mean blend?"


def test_errors_and_notes_name_the_parts_of_the_form():
    words = {
        "if black marks the hole, give --invert-mask": "if black marks the hole, give invert_mask=true",
        "stays so: --mask=alpha makes it opaque": "stays so: alpha_mask=true makes it opaque",
        "use --strategy=crop and --max-side=64": "use strategy=crop and max_side=64",
    }
    assert {text: in_words_of_the_form(text) for text in words} == words


def test_empty_parts_of_a_form_are_not_given(client):
    empty = dict.fromkeys(Options.model_fields, "")
    whole = send(client, **empty)
    assert whole.status_code == 200, whole.text
    assert whole.content == send(client).content
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + image("RGBA") + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="mask"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="alpha_mask"\r\n\r\ntrue\r\n--x--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/complete", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    # A file that has a name and no content is a mistake.
    assert_problem(send(client, hole=b""), 422)


def test_messages_and_notes_name_parts_of_the_form(client):
    detail = assert_problem(send(client, hole=mask((30, 40))), 422)
    assert "give fit_mask=true to stretch" in detail
    assert "--" not in detail
    notes = json.loads(send(client, hole=mask((48, 40)), invert_mask="true").headers["x-glcic-notes"])
    assert not any("--" in note for note in notes)


def test_missing_or_repeated_parts_are_422(client):
    assert "image: is missing" in assert_problem(client.post("/v1/complete", files={"mask": mask()}), 422)
    assert "one of" in assert_problem(send(client, hole=False), 422)
    twice = [("image", ("a", image())), ("image", ("b", image()))]
    assert "appears twice" in assert_problem(client.post("/v1/complete", files=twice), 422)
    assert "is text" in assert_problem(
        client.post("/v1/complete", data={"image": "/etc/passwd"}, files={"mask": mask()}), 422
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"no parts", b"--x\r\n\r\n"):
        assert_problem(client.post("/v1/complete", content=body, headers=headers), 422)
    headers = {"content-type": "multipart/form-data"}
    assert_problem(client.post("/v1/complete", content=b"", headers=headers), 422)


def test_full_queue_is_429_with_retry_after(client, service):
    with service.queue_place(), service.queue_place(), service.queue_place():
        answer = send(client)
    assert "places in the queue" in assert_problem(answer, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert send(client).status_code == 200


def test_stopping_service_is_503(client, service):
    assert client.get("/readyz").json() == {"status": "ready"}
    service.stop_accepting()
    answer = send(client)
    assert_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert_problem(client.get("/readyz"), 503)


def test_images_are_completed_during_the_warm_up(completer):
    service = Service({"tiny": completer}, LIMITS)
    client = TestClient(create_app(service), raise_server_exceptions=False)
    assert client.get("/readyz").json() == {"status": "warming up"}
    answer = send(client)
    assert answer.status_code == 200
    assert "still warming up" in json.loads(answer.headers["x-glcic-notes"])[0]
    service.close()


def test_preview_is_an_upright_jpeg_with_the_size_of_the_image(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    picture = image(size=(60, 40), kind="TIFF", exif=exif)
    answer = client.post("/v1/preview", files={"image": picture})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-glcic-size"] == "40x60"
    shown = Image.open(io.BytesIO(answer.content))
    assert (shown.format, shown.size) == ("JPEG", (40, 60))


def test_preview_is_reduced(completer):
    service = Service({"tiny": completer}, dataclasses.replace(LIMITS, max_pixels=10_000_000, max_bytes=8 << 20))
    client = TestClient(create_app(service), raise_server_exceptions=False)
    answer = client.post("/v1/preview", files={"image": image("L", size=(4096, 512))})
    assert answer.headers["x-glcic-size"] == "4096x512"
    assert Image.open(io.BytesIO(answer.content)).size == (2048, 256)
    service.close()


def test_preview_has_the_limits_and_errors_of_the_completion(client, service):
    def preview(content, **fields):
        return client.post("/v1/preview", files={"image": content}, data=fields)

    assert assert_problem(preview(b"hello"), 415).startswith("image: ")
    assert assert_problem(preview(png_of(60_000, 60_000)), 413).startswith("image: has 60000 x 60000")
    assert_problem(preview(b"\0" * (LIMITS.max_bytes + 1)), 413)
    assert "grow: send an image alone" in assert_problem(preview(image(), grow="1"), 422)
    assert "mask: send an image alone" in assert_problem(client.post("/v1/preview", files={"mask": mask()}), 422)
    empty = client.post(
        "/v1/preview", content=b"--x--\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert "image: is missing" in assert_problem(empty, 422)
    assert_problem(client.post("/v1/preview", json={}), 415)
    with service.queue_place(), service.queue_place(), service.queue_place():
        assert_problem(preview(image()), 429)


def test_progress_is_told_by_the_name_of_the_request(client, service):
    with service.queue_place("request-1") as place:
        expected = {"state": "reading", "place": 0, "windows_done": 0, "windows": 0, "note": ""}
        assert client.get("/v1/requests/request-1").json() == expected
        place.submitted = 0
        assert client.get("/v1/requests/request-1").json() == expected | {"state": "queued", "place": 1}
        place.working, place.windows_done, place.windows = True, 2, 5
        expected |= {"state": "working", "windows_done": 2, "windows": 5}
        assert client.get("/v1/requests/request-1").json() == expected
        answer = client.post("/v1/complete", files={"image": image()}, headers={"X-Glcic-Request": "request-1"})
        assert "another request is called request-1" in assert_problem(answer, 422)
    assert_problem(client.get("/v1/requests/request-1"), 404)
    for name in ("short", "a" * 65, "no spaces here"):
        answer = client.post("/v1/complete", files={"image": image()}, headers={"X-Glcic-Request": name})
        assert "8 to 64 letters" in assert_problem(answer, 422)


def test_unexpected_error_is_500_without_its_message(client, service, monkeypatch):
    def fail(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(service, "submit", fail)
    assert "secret" not in assert_problem(send(client), 500)


def test_unknown_paths_and_methods_are_problems(client):
    assert_problem(client.get("/v1/other"), 404)
    assert_problem(client.put("/v1/other"), 404)
    methods = {"complete": "POST", "preview": "POST", "weights": "GET", "requests/request-1": "GET"}
    for path, method in methods.items():
        answer = client.request("PUT", f"/v1/{path}")
        assert_problem(answer, 405)
        assert answer.headers["allow"] == method
    assert_problem(client.get("/v1/complete"), 405)
    for path in ("weights/", "limits/x", "requests"):
        assert_problem(client.get(f"/v1/{path}"), 404)
    assert client.head("/readyz").status_code == 200
    assert_problem(client.put("/readyz"), 405)


def test_the_log_has_one_refusal_a_minute_and_no_probes(client, service, caplog, monkeypatch):
    def refusals():
        return [message for message in caplog.messages if message.startswith("refused")]

    with caplog.at_level("INFO", "glcic_jax"):
        for _ in range(5):
            send(client, blnd="on")
            send(client, b"hello")
            client.get("/v1/requests/no-such-request")
        assert refusals() == ["refused: 422, blnd: there is no such option: did you mean blend?"]
        monkeypatch.setattr(api, "_SECONDS_BETWEEN_REFUSALS", 0.0)
        send(client, grow="-1")
        assert refusals()[1].endswith("from 0 to 10000 (before: 5 x 415, 4 x 422)")
        service.stop_accepting()
        for _ in range(5):
            assert client.get("/readyz").status_code == 503
        assert len(refusals()) == 2


def test_part_names_cannot_forge_log_lines(client, caplog):
    with caplog.at_level("INFO", "glcic_jax"):
        files = {"image": ("a", image()), "mask": ("m", mask())}
        client.post("/v1/complete", files=files, data={"a\nforged\x1b[2J": "1"})
    assert "forged" in caplog.text
    for record in caplog.records:
        assert record.getMessage().isprintable()


def test_requests_are_not_written_to_disk(completer, monkeypatch):
    """Beyond a megabyte, files go to the temporary folder unless the parser is told otherwise."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    service = Service({"tiny": completer}, dataclasses.replace(LIMITS, max_bytes=4 << 20))
    client = TestClient(create_app(service), raise_server_exceptions=False)
    longer = bytes(3 << 20)  # Behind the end of an image, which readers do not look at.
    assert send(client, image() + longer, mask() + longer).status_code == 200
    service.close()


def test_compressed_metadata_is_not_unpacked_without_limit(client):
    """A hundred kilobytes that would be a hundred megabytes."""
    packed = zlib.compress(b"\0" * (100 << 20), 9)
    for kind, data in ((b"zTXt", b"a\0\0" + packed), (b"iCCP", b"a\0\0" + packed)):
        chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        whole = image()
        tracemalloc.start()
        answer = send(client, whole[:33] + chunk + whole[33:])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.status_code in (200, 415), answer.text
        assert peak < 40 << 20
    tracemalloc.start()
    zlib.decompress(packed)
    seen = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen > 100 << 20  # What was looked for would have been seen.


def test_weights_are_listed_with_the_default_first(client):
    first, second = client.get("/v1/weights").json()
    assert (first["name"], first["default"], second["name"], second["default"]) == ("tiny", True, "other", False)
    assert first["hole_sides"] == [8, 16]
    assert first["licence"] == "not stated"
    assert "16 px" in first["limits"]
    assert send(client, weights="other").headers["x-glcic-weights"] == "other"


def test_limits_are_told(client):
    assert client.get("/v1/limits").json() == {"max_bytes": LIMITS.max_bytes, "max_pixels": LIMITS.max_pixels}


def test_openapi_describes_the_endpoint(client):
    described = client.get("/openapi.json").json()
    paths = {"/readyz"} | {
        f"/v1/{name}" for name in ("complete", "limits", "preview", "requests/{name}", "weights")
    }
    assert set(described["paths"]) == paths
    complete = described["paths"]["/v1/complete"]["post"]
    schema = complete["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(schema["properties"]) == {"image", "mask", *Options.model_fields}
    assert schema["required"] == ["image"]
    assert schema["additionalProperties"] is False
    assert {"200", "413", "415", "422", "429", "503"} <= set(complete["responses"])
    assert schema["properties"]["strategy"]["enum"] == list(STRATEGIES)
    # Every option can be sent with the default that the description tells.
    defaults = {
        name: json.dumps(field["default"]) if isinstance(field["default"], bool) else str(field["default"])
        for name, field in schema["properties"].items()
        if field.get("default") is not None
    }
    assert len(defaults) >= 9
    assert send(client, **defaults).status_code == 200
    for code in ("413", "415", "422", "429", "503"):
        assert "application/problem+json" in complete["responses"][code]["content"]
    answer = client.get("/v1/weights").json()[0]
    assert set(described["components"]["schemas"]["WeightsInfo"]["properties"]) == set(answer)
