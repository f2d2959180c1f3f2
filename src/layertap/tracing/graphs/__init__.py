"""Flattens a model to a list of calls, cuts it, and builds models of the parts."""
