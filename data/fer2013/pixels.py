"""Pixel texts ("70 80 82 ...") to bytes, many faces at a time.

The text of a hundred faces is treated as one array of characters, and every step is one NumPy
operation over all of it: far faster than splitting and converting each number, and other threads
run meanwhile, because NumPy lets go of the interpreter lock.
"""

import threading

import numpy as np

PIXELS = 48 * 48
PIXEL_MAX = 255


class PixelParser(threading.local):
    """Parses pixel texts. May be shared: each thread that uses it has its own working memory."""

    def __init__(self):
        self._flags = np.empty((4, 0), bool)
        self._bytes = np.empty((3, 0), np.uint8)

    def _working_memory(self, size):
        # Fresh arrays of this size would be returned to the system, and faulted in again, on each call.
        if self._flags.shape[1] < size:
            self._flags = np.empty((4, size * 5 // 4), bool)
            self._bytes = np.empty((3, size * 5 // 4), np.uint8)
        return *self._flags[:, :size], *self._bytes[:, :size]

    def parse(self, text, starts, stops):
        """Parse the pixel texts of several faces, which lie in one longer text.

        text: bytes; starts, stops: ints (n,), where each pixel text begins and ends, in ascending order. A pixel
        text holds 2304 decimal integers in 0..255, separated by one or more spaces.
        Returns uint8 (n, 2304), or None when any of them is anything else (`pixel_fault` says what).
        """
        # Two spaces in front, so that "the character two before" exists everywhere; one at the end.
        characters = np.full(len(text) + 3, ord(" "), np.uint8)
        characters[2:-1] = np.frombuffer(text, np.uint8)
        for stop, start in zip([0, *stops], [*starts, len(text)], strict=True):
            characters[stop + 2 : start + 2] = ord(" ")
        ends, values = self._numbers(characters)
        if ends is None or ends.size != len(starts) * PIXELS:
            return None
        # Equal totals are not enough: 2303 pixels may stand beside 2305.
        if (ends[::PIXELS] < starts).any() or (ends[PIXELS - 1 :: PIXELS] >= stops).any():
            return None
        return values.take(ends).reshape(-1, PIXELS)

    def _numbers(self, text):
        """The numbers in `text`, uint8 characters that begin with two spaces and end with one.

        Returns (ends, values): where the last digits are, counted from the third character, and an array that holds
        at each such place the number; (None, None) when there is anything but spaces and integers in 0..255.
        """
        is_digit, is_space, three_digits, flags, digits, values, below_hundred = self._working_memory(text.size)
        np.greater_equal(text, ord("0"), out=is_digit)
        np.equal(text, ord(" "), out=is_space)
        if text.max() > ord("9") or np.count_nonzero(is_digit) + np.count_nonzero(is_space) != text.size:
            return None, None

        # From here on entry i is about character i + 2: it is a digit, and so are the two before it.
        three_digits, values, below_hundred = three_digits[2:], values[2:], below_hundred[2:]
        np.logical_and(is_digit[2:], is_digit[1:-1], out=three_digits)
        np.logical_and(three_digits, is_digit[:-2], out=three_digits)
        if np.logical_and(three_digits[1:], is_digit[:-3], out=flags[3:]).any():
            return None, None  # four digits in a row

        # The value of the number that ends here. A digit's low four bits are its value and those of a
        # space are 0, so only the hundreds can touch the number before, and need the mask.
        np.bitwise_and(text, 15, out=digits)
        np.multiply(digits[:-2], three_digits.view(np.uint8), out=values)
        if values.max() > 2:
            return None, None
        np.multiply(digits[1:-1], np.uint8(10), out=below_hundred)
        below_hundred += digits[2:]
        values *= np.uint8(100)
        values += below_hundred
        if np.less(values, below_hundred, out=flags[2:]).any():
            return None, None  # 256 to 299 wrapped around
        return np.flatnonzero(np.logical_and(is_digit[2:-1], is_space[3:], out=flags[3:])), values


def face_hashes(pixels):
    """A 64-bit hash of each face, uint8 (n, 2304) -> uint64 (n,).

    The sum of the 288 eight-byte words, each times an odd number of its own: equal faces have equal hashes, and
    it is for the caller to see whether faces of equal hashes are equal.
    """
    words = pixels.view(np.uint64)
    return words @ (np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def one_colour(pixels):
    """Whether all pixels of a face are equal, uint8 (n, 2304) -> bool (n,)."""
    few = pixels[:, :: PIXELS // 8]  # nearly always enough to say no
    flags = (few == few[:, :1]).all(axis=1)
    flags[flags] = (pixels[flags] == pixels[flags, :1]).all(axis=1)
    return flags


def pixel_fault(text):
    """Why `text` (bytes) is not 2304 integers in 0..255: one sentence, or None when it is.

    Slow and careful; meant for the rows that `PixelParser` refuses.
    """
    words = text.split()
    if not words:
        return "pixels: missing"
    for place, word in enumerate(words, start=1):
        if not word.isdigit():
            return f"pixels: number {place} is {quoted(word)}, not an integer in 0-255"
        digits = word.lstrip(b"0") or b"0"  # int() refuses a word of thousands of them
        if len(digits) > 3 or int(digits) > PIXEL_MAX:
            return f"pixels: number {place} is {quoted(word)}, above 255"
    if len(words) != PIXELS:
        return f"pixels: {len(words)} numbers instead of {PIXELS}"
    return None


def quoted(field, longest=20):
    """A field (bytes) as a short, printable quotation for a report."""
    text = field.decode("utf-8", errors="replace").strip()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "'" + (text if len(text) <= longest else text[:longest] + "...") + "'"
