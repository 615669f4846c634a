"""Numbers that a text decides, bit for bit the same on every machine and with every version of every package."""

import hashlib


class TextRandom:
    """An endless row of random integers that depends on a text alone.

    Words of 64 bits are cut from the SHA-256 of the text and a counter. NumPy keeps its words of one version for
    the next, but not what it makes of them, and floating-point functions differ between machines.

    Args:
      text: What decides the numbers.
    """

    def __init__(self, text: str):
        self._state = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        self._blocks = 0
        self._words: list[int] = []

    def integer(self, lowest: int, highest: int) -> int:
        """The next number, uniform in [lowest, highest], both ends included.

        The product with a word's fraction is cut off, without rejection: a number's probability is off by less
        than 2^-64.
        """
        if lowest > highest:
            raise ValueError(f"there is no number from {lowest} to {highest}")
        return lowest + ((self._word() * (highest - lowest + 1)) >> 64)

    def _word(self) -> int:
        if not self._words:
            block = self._state.copy()
            block.update(b"\0" + self._blocks.to_bytes(8, "big"))
            self._blocks += 1
            digest = block.digest()
            self._words = [int.from_bytes(digest[start : start + 8], "big") for start in (24, 16, 8, 0)]
        return self._words.pop()
