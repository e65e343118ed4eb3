"""Readers of annotated videos, one file per format."""
