"""The data doctor: looks for silent faults of a data set, estimates sigmas, converts annotations."""
