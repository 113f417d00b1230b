"""What only FERSNet needs: its losses and step, guides, measures of synthesized faces, cross-validation."""
