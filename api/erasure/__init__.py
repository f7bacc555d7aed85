"""Erasure: what becomes of a deleted tenant once its grace period is over."""
