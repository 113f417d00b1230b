"""Drawn faces: the embedded default."""
