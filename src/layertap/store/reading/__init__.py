"""Reads rows of a store."""
