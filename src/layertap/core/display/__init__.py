"""Displays for notebooks: real tables and small pictures in HTML, without scripts."""
