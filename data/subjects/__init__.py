"""Faces of known subjects: CK+, Oulu-CASIA, folds, pairs."""
