"""Runs batches through a tap, into memory or into a store."""
