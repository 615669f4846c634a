"""The progress line of a training on a real terminal, and the time it estimates."""

import fcntl
import io
import os
import pty
import re
import struct
import termios

import pytest

from glcic_jax.training.progress_line import ProgressLine
from glcic_jax.training.schedule import create_schedule
from glcic_jax.training.tasks.completion import CompletionTask

SCHEDULE = create_schedule((("completion", 100), ("discriminator", 50), ("joint", 200)))
LABELS = CompletionTask.display.labels
VALUES = {**dict.fromkeys(LABELS, 0.125), "images_per_second": 8.0}


def progress_line(stream) -> ProgressLine:
    return ProgressLine(SCHEDULE, 16, {"completion": 1.0, "discriminator": 0.5, "joint": 2.0}, LABELS, stream)


def test_the_time_left_includes_compiling_the_later_phases():
    line = progress_line(stream := io.StringIO())
    line.start_phase(SCHEDULE.phases[0], 0)
    line.compiled("completion step", 40.0)
    line.report(50, SCHEDULE.phases[0], VALUES)
    # 2 s a step: 100 s in the phase, then 50 s + 800 s, and 20 s + 80 s to compile.
    assert "phase 1m40s left, all 17m30s left" in stream.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 110, 200])
def test_a_line_fits_into_the_terminal_and_is_not_cut(columns):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        line, phase = progress_line(terminal), SCHEDULE.phases[2]
        line.start_phase(phase, phase.start)
        line.compiled("joint step", 80.0)
        line.report(phase.start + 10, phase, VALUES)
        line.close()
        text = ""
        while not text.endswith("\r\n"):  # Of `close`.
            text += os.read(master, 65536).decode()
    os.close(master)
    last = [part for part in re.split(r"[\r\n]+", text) if part.strip()][-1].rstrip()
    assert len(last) < columns
    assert re.match(r"phase 3/3 joint 0/200 (\|.{12}\| )?6m20s of 6m20s left(, [\w./]+ [\w./]+)*$", last), last
    assert ("rec_loss 0.125" in last) == (columns >= 80)
    assert ("weight 0.125" in last) == (columns == 200)
