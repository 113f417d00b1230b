"""Numbers as a person says them."""


def counted(number, noun):
    """How many there are of something, an English noun in the singular: "1 face", "1,200 faces"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spell_duration(seconds):
    """Seconds as a person says them: 45 s, 4 min 40 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
