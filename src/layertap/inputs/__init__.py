"""Opens models and data, and converts any data to batches."""
