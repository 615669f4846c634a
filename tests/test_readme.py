"""What the manuals name exists."""

import re

import pytest
from helpers.common import CONFIGS, ROOT

README = (ROOT / "README.md").read_text()
MANUALS = sorted(
    path
    for pattern in ("*.md", ".deploy/*.md", "glcic_jax/**/*.md", "configs/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_paths_of_a_manual_exist(path):
    text = path.read_text()
    assert not re.findall(r"\b[A-Z]+_(?:FIGURES|TABLE)\b|\bTODO\b|\bTBD\b", text)
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text):
        assert (path.parent / link).exists(), link
    for named in re.findall(r"`((?:tests|configs|glcic_jax)/[\w/]+\.(?:py|md|sh|csv))`", text):
        assert (ROOT / named).exists(), named


def test_every_room_has_a_manual_that_the_readme_links():
    rooms = [path.parent for path in (ROOT / "glcic_jax").glob("*/__init__.py")]
    for room in rooms:
        assert f"(glcic_jax/{room.name}/README.md)" in README, room.name


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_listed(name):
    assert f"`{name}.py`" in README


def test_the_two_commands_stand_alone_on_their_lines():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert [line.split()[-1] for line in commands] == ["--config=configs/quickstart.py", "pytest"]
