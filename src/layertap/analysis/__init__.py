"""Answers questions about stores: verify, diff, importance."""
