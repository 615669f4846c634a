"""Memory of the host."""

import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT

from glcic_jax.runtime import available_memory


def test_available_memory_is_at_most_that_of_the_machine():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < available_memory() <= total * 1024


@pytest.mark.parametrize("limit", [500 << 20, 700 << 20])
def test_a_limit_of_the_address_space_counts(limit):
    code = "from glcic_jax.runtime import available_memory; print(available_memory())"
    line = f"ulimit -v {limit >> 10} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    found = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert limit * 0.5 < int(found.stdout) < limit


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_kept():
    code = """
import resource
import numpy as np
from glcic_jax.runtime import keep_freed_memory

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def size():
    return int(open("/proc/self/statm").read().split()[0])

assert keep_freed_memory()
print(pages_mapped(), pages_mapped())
np.empty(5 * 2**29, np.uint8)  # More than glibc's largest threshold keeps; none of its pages is touched.
print(size() * resource.getpagesize() > 5 * 2**29)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second, kept = done.stdout.split()
    assert int(second) < int(first) / 10
    assert kept == "True"
