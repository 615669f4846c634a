"""The schedule: phases of steps, and what is due."""

import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.training.schedule import Phase, create_schedule


def test_paper_changes_phase_after_90_000_and_100_000_updates():
    schedule = create_schedule([("completion", 90_000), ("discriminator", 10_000), ("joint", 400_000)])
    assert schedule.phases == (
        Phase("completion", 0, 0, 90_000),
        Phase("discriminator", 1, 90_000, 100_000),
        Phase("joint", 2, 100_000, 500_000),
    )
    assert schedule.total_steps == 500_000
    expected = {
        0: "completion",
        89_999: "completion",
        90_000: "discriminator",
        99_999: "discriminator",
        100_000: "joint",
        499_999: "joint",
    }
    assert {step: schedule.phase_at(step).name for step in expected} == expected


def test_phase_at_stays_in_the_last_phase_after_the_end():
    schedule = create_schedule([("completion", 3), ("joint", 2)])
    assert schedule.phase_at(5).name == schedule.phase_at(1_000).name == "joint"


NAMES = ("completion", "discriminator", "joint")


@pytest.mark.parametrize("skipped", NAMES)
def test_phase_without_steps_is_left_out(skipped):
    schedule = create_schedule([(name, 0 if name == skipped else 2) for name in NAMES])
    kept = [name for name in NAMES if name != skipped]
    assert schedule.phases == (Phase(kept[0], 0, 0, 2), Phase(kept[1], 1, 2, 4))
    assert [schedule.phase_at(step).name for step in range(4)] == [kept[0]] * 2 + [kept[1]] * 2


@pytest.mark.parametrize(("every", "expected"), [(4, [4, 5, 7, 8, 12, 13]), (1_000, [5, 7, 13]), (0, [5, 7, 13])])
def test_is_due_at_every_multiple_and_at_the_end_of_each_phase(every, expected):
    schedule = create_schedule([("completion", 5), ("discriminator", 2), ("joint", 6)])
    assert [step for step in range(1, schedule.total_steps + 1) if schedule.is_due(step, every)] == expected


def test_negative_length_is_refused():
    with pytest.raises(ConfigError, match="'joint' has -1 steps"):
        create_schedule([("completion", 5), ("joint", -1)])


@pytest.mark.parametrize("phases", [[], [("completion", 0), ("discriminator", 0), ("joint", 0)]])
def test_schedule_without_steps_is_refused(phases):
    with pytest.raises(ConfigError, match="no step"):
        create_schedule(phases)


def test_history_lists_the_phases_of_the_first_steps():
    schedule = create_schedule([("completion", 5), ("discriminator", 0), ("joint", 6)])
    assert schedule.history(0) == ()
    assert schedule.history(5) == (("completion", 5),)
    assert schedule.history(7) == (("completion", 5), ("joint", 2))
    assert schedule.history(11) == schedule.history(99) == (("completion", 5), ("joint", 6))
