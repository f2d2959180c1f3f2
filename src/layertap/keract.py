"""A bridge for users of keract: its functions, on Keras 3."""
