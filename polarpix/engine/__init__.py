"""How a run is carried out: optimiser, trainer, weights files."""
