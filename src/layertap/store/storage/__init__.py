"""Reads and writes bytes: files, objects of a bucket, locks, errors of the system."""
