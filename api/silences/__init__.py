"""Silences and maintenance windows: which alerts are not told to anybody, and until when."""
