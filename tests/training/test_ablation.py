"""The ablation's script and its variants."""

import functools
import os
import subprocess
from pathlib import Path

import pytest
from helpers.common import CONFIGS, ROOT, load_config

VARIANTS = ("completion", "mse", "global", "local", "both")


load = functools.partial(load_config, "ablation")


@pytest.fixture
def recorded(tmp_path):
    """Runs the script with an interpreter that only records its arguments."""
    (tmp_path / "the faces").mkdir()
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\n(pwd; printf "%s\\n" "$@"; echo --) >>"{tmp_path}/calls"\n')
    stub.chmod(0o755)

    def run(*arguments: str) -> list[list[str]]:
        subprocess.run(
            [ROOT / "configs" / "ablation.sh", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHON": "./python"}, check=True,
        )  # fmt: skip
        return [
            call.split("\n") for call in (tmp_path / "calls").read_text().removesuffix("\n--\n").split("\n--\n")
        ]

    return run


def test_script_trains_and_evaluates_every_variant(recorded, tmp_path):
    *trainings, compare, evaluate = recorded("the faces", "out", "--config.batch_size=4")
    assert [call[2].rpartition(":")[2] for call in trainings] == list(VARIANTS)
    for directory, *command in trainings:
        assert Path(directory) == ROOT
        assert command[0] == "main.py"
        assert f"--config.data.source=folder:{tmp_path}/the faces" in command
        assert "--config.batch_size=4" in command
    assert not any("start_from" in part for part in trainings[0])
    for call in trainings[1:]:
        assert f"--config.start_from={tmp_path}/out/completion" in call
    for call, name in ((compare, "compare"), (evaluate, "evaluate")):
        assert call[0] == str(tmp_path / "out")
        assert call[3] == name
        assert set(VARIANTS[1:]) <= set(call[4:])
        assert f"folder:{tmp_path}/the faces" in call
        assert call[call.index("--validation-fraction") + 1] == str(load("both").data.validation_fraction)


def test_script_without_arguments_prints_its_usage():
    process = subprocess.run([ROOT / "configs" / "ablation.sh"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "FOLDER OUT" in process.stderr


def test_variants_differ_only_in_their_discriminators():
    assert "ablation" in CONFIGS
    both = load("both")
    assert load_config("ablation").to_dict() == both.to_dict()
    total = sum(both.phases.values())
    for variant in VARIANTS[1:]:
        config = load(variant)
        assert sum(config.phases.values()) == total
        assert config.phases.completion >= both.phases.completion == load("completion").phases.completion
        for key in ("discriminator", "phases"):
            config[key] = both[key]
        assert config.to_dict() == both.to_dict()
    with pytest.raises(ValueError, match="choose from completion, mse"):
        load("all")
