"""What memory is left."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from glcic_jax.memory import available_memory


def test_it_is_some_and_no_more_than_the_machine_has():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < available_memory() <= total * 1024


@pytest.mark.parametrize("limit", [500 << 20, 700 << 20])
def test_a_limit_of_the_address_space_counts(limit):
    code = "from glcic_jax.memory import available_memory; print(available_memory())"
    line = f"ulimit -v {limit >> 10} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    found = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert limit * 0.5 < int(found.stdout) < limit
