"""Appends rows to a store, block by block."""
