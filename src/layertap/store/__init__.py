"""A store: named arrays of rows on disk, in Zarr v3, written so that no crash hurts.

Knows nothing of Keras, of plans, of models.
"""
