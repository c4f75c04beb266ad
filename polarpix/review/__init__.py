"""Looking at what came out: the gates of a network for given pictures, and runs side by side."""
