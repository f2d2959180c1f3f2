"""Recordings of training: a store for each step."""
