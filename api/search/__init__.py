"""Search over what the sink has stored."""
