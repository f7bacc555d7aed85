"""Benchmarks: each compares PulseStream with the obvious alternative, in one run on one machine.

Absolute figures vary from machine to machine and with what else it does; the ratios are what counts.
"""
