"""Turns a model into a plan."""
