"""Progress of long work."""

from glcic_jax import progress
from glcic_jax.progress import Progress, format_bytes


def test_lines_appear_at_intervals_where_there_is_no_terminal(monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)
    with Progress("reading", 2_000, lines.append, "images") as bar:
        bar.advance(1_500)
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 1e6)
        bar.advance()
    assert lines == ["reading: 1,500 of 2,000 images"]


def test_bytes_have_binary_units():
    sizes = (0, 1023, 1536, 5 * 2**20, 3 * 2**40)
    assert [format_bytes(size) for size in sizes] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3072.0 GiB"]
