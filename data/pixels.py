"""Pixel texts ("70 80 82 ...") to bytes, many faces at a time.

The text of a hundred faces is treated as one array of characters, and every step is one NumPy
operation over all of it: several hundred times faster than splitting and converting each number,
and other threads run meanwhile, because NumPy lets go of the interpreter lock.
"""

import numpy as np

PIXELS = 48 * 48
PIXEL_MAX = 255


def parse_pixels(texts):
    """Parse the pixel texts of several faces.

    texts: list of bytes; each holds 2304 decimal integers in 0..255 separated by one or more spaces.
    Returns uint8 (len(texts), 2304), or None when any text is anything else; `pixel_fault` says what.
    """
    texts = [text.strip() for text in texts]
    # Two spaces in front, so that "the character two before" exists everywhere; one at the end.
    text = np.frombuffer(b" ".join([b" ", *texts, b""]), np.uint8)
    is_digit = text >= ord("0")
    is_space = text == ord(" ")
    if text.max() > ord("9") or np.count_nonzero(is_digit) + np.count_nonzero(is_space) != text.size:
        return None

    # For each character: it is a digit and so are the one (two) before it.
    two_digits = is_digit[2:] & is_digit[1:-1]
    three_digits = two_digits & is_digit[:-2]
    if (three_digits[1:] & is_digit[:-3]).any():
        return None

    # The value of the number that ends at each character. A digit's low four bits are its value, and
    # those of a space are 0, so only the hundreds can see the number before and need a mask.
    digits = text & 15
    hundreds = digits[:-2] * three_digits.view(np.uint8)
    if hundreds.max() > 2:
        return None
    below_hundred = digits[1:-1] * np.uint8(10)
    below_hundred += digits[2:]
    values = hundreds
    values *= np.uint8(100)
    values += below_hundred
    if (values < below_hundred).any():  # 256 to 299 wrapped around
        return None

    ends = np.flatnonzero(is_digit[2:-1] & is_space[3:])  # where a number ends
    if ends.size != len(texts) * PIXELS:
        return None
    # Equal totals are not enough: 2303 pixels may stand beside 2305.
    last_of_text = np.cumsum([len(text) + 1 for text in texts]) - 2
    if not np.array_equal(ends[PIXELS - 1 :: PIXELS], last_of_text):
        return None
    return values.take(ends).reshape(len(texts), PIXELS)


def pixel_fault(text):
    """Why `text` (bytes) is not 2304 integers in 0..255: a short sentence, or None when it is.

    Slow and careful; meant for the rows that `parse_pixels` refuses.
    """
    words = text.split()
    if not words:
        return "pixels: missing"
    for place, word in enumerate(words, start=1):
        if not word.isdigit():
            return f"pixels: number {place} is {quoted(word)}, not an integer in 0-255"
        if len(word.lstrip(b"0")) > 3 or int(word) > PIXEL_MAX:
            return f"pixels: number {place} is {quoted(word)}, above 255"
    if len(words) != PIXELS:
        return f"pixels: {len(words)} numbers instead of {PIXELS}"
    return None


def quoted(field, longest=20):
    """A field (bytes) as a short, printable quotation for a report."""
    text = field.decode("utf-8", errors="replace").strip()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "'" + (text if len(text) <= longest else text[:longest] + "...") + "'"
