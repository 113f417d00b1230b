"""Videos: their frames, the people in them, and what is said of each."""
