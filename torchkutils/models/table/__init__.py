"""Rows of a summary and their layouts."""
