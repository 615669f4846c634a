"""The endpoint against its own description: whatever is sent, the answer is one that is described."""

import io

import numpy as np
import pytest
import schemathesis
from helpers.served import image, mask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving.test_serving import LIMITS

from glcic_jax.serving.api import create_app
from glcic_jax.serving.service import Service

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def schema(completer, tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    service = Service({"tiny": completer, "other": completer}, LIMITS)
    service.warm_up((), print)
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
    service.close()


def statuses(strategy, adapt=lambda case, data: None) -> set[int]:
    """Sends what a strategy draws; checks the answers, and returns their status codes."""
    seen = set()

    @BOUNDED
    @given(case=strategy, data=st.data())
    def send(case, data):
        adapt(case, data)
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        seen.add(answer.status_code)

    send()
    return seen


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", ["/v1/complete", "/v1/preview"])
def test_answers_to_all_forms_are_described(schema, path, mode):
    statuses(schema[path]["POST"].as_strategy(generation_mode=mode))


def pictures() -> st.SearchStrategy[bytes]:
    """Files of all sorts: sizes, modes, formats; some cut or with changed bytes."""
    content = st.builds(
        lambda mode, size, kind: image(mode, size, kind if mode == "RGB" else "PNG"),
        st.sampled_from(["RGB", "RGBA", "L"]),
        st.tuples(st.integers(2, 40), st.integers(2, 40)),
        st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF"]),
    )
    return st.one_of(
        content, st.builds(damaged, content, st.integers(0, 4000), st.binary(max_size=8)), st.binary()
    )


def damaged(content: bytes, at: int, instead: bytes) -> bytes:
    at %= len(content)
    return content[:at] + instead + (content[at + len(instead) :] if instead else b"")


def test_files_of_all_sorts(schema):
    def adapt(case, data):
        case.body["image"] = data.draw(pictures())
        case.body["mask"] = data.draw(pictures() | st.just(mask_like(case.body["image"])))
        case.body.pop("alpha_mask", None)
        case.body.pop("random_mask", None)

    assert {200, 415} <= statuses(schema["/v1/complete"]["POST"].as_strategy(), adapt)


def mask_like(picture: bytes) -> bytes:
    """A mask of an image's size, if it can be read."""
    try:
        size = Image.open(io.BytesIO(picture)).size
    except OSError:
        return mask()
    hole = np.zeros(size[::-1], np.uint8)
    hole[size[1] // 2 :, size[0] // 2 :] = 255
    content = io.BytesIO()
    Image.fromarray(hole).save(content, "PNG")
    return content.getvalue()
