"""A store together with its plan: lazy arrays, statistics, datasets for training."""
