"""Reuses the traces, plans and passes of a model that stays as it is."""
