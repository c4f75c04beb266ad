"""Feature extractors with attention inside."""
