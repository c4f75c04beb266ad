"""Trained networks to files that run elsewhere, compared before they are kept."""
