"""The exchanges that are spoken, one module each: the module's `EXCHANGE(name)` makes an `Exchange` (see protocol)."""
