"""Opens models and data, and turns any data into batches."""
