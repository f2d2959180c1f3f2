"""The page of a store: what is in it, as one HTML file."""
