"""Progress of long work."""

import io

from glcic_jax import progress
from glcic_jax.progress import Progress, format_bytes


def test_lines_appear_at_intervals_where_there_is_no_terminal(monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)
    with Progress("reading", 2_000, lines.append, "images") as bar:
        bar.advance(1_500)
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 1e6)
        bar.log("a.png: damaged")
        bar.advance()
    assert lines == ["reading: 1,500 of 2,000 images", "a.png: damaged"]


def test_bytes_have_binary_units():
    sizes = (0, 1023, 1536, 5 * 2**20, 3 * 2**40)
    assert [format_bytes(size) for size in sizes] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072.0 GiB"]


def test_lines_appear_above_a_bar_on_a_terminal(monkeypatch):
    lines, terminal = [], io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("reading", 2, lines.append, "images") as bar:
        bar.log("a.png: damaged")
    assert "a.png: damaged\n" in terminal.getvalue()
    assert lines == []
