"""Statistics of saved values, unit by unit."""
