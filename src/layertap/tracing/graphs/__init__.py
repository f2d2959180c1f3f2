"""Writes a model out as a graph of calls, cuts it, and builds models of the parts."""
