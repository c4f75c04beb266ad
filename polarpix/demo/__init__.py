"""The embedded data set and the demonstration that runs on it."""
