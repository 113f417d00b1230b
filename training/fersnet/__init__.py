"""What only FERSNet needs: its step and losses, guides, metrics of synthesis, folds."""
