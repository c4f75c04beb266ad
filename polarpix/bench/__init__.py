"""Time and memory of blocks and whole networks, each figure beside the conditions it was found under."""
