"""Faces of known people: CK+, Oulu-CASIA, folds, pairs."""
