"""What the README names is there."""

import re

import pytest
from helpers.common import CONFIGS, ROOT

README = (ROOT / "README.md").read_text()


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"\b[A-Z]+_(?:FIGURES|TABLE)\b|\bTODO\b|\bTBD\b", README)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_listed(name):
    assert f"`{name}.py`" in README


def test_the_two_commands_stand_alone_on_their_lines():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert [line.split()[-1] for line in commands] == ["--config=configs/quickstart.py", "pytest"]
