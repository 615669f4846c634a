"""The tasks: what the loop can train."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.training.config_checks import check_shared_values
from glcic_jax.training.task import Task
from glcic_jax.training.tasks.completion import CompletionTask
from glcic_jax.training.tasks.generation import GenerationTask


def task_of(config: Mapping[str, Any]) -> type[Task]:
    """Returns the task of a configuration; raises ConfigError if its name is unknown."""
    # Configurations of early runs name none.
    return lookup(TASKS, config.get("task", "completion"), "task")


def check_values(config: ConfigDict) -> None:
    """Refuses numbers that would fail later with a less clear error.

    Raises:
      ConfigError: A number is out of range, two do not fit together, or a name that selects numbers is unknown.
    """
    task = task_of(config)
    missing = [section for section in task.sections if section not in config]
    if missing:
        raise ConfigError(
            f"task is {config.task!r}, and the configuration has no section {missing[0]!r}: choose another "
            "configuration instead of another task"
        )
    check_shared_values(config)
    task.check(config)


TASKS: dict[str, type[Any]] = {"completion": CompletionTask, "generation": GenerationTask}
