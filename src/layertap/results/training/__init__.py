"""A store as a data set for training, on each framework."""
