"""Exports of saved values to the files of other tools, one module a format."""
