"""Commands that talk to a running installation: tail, doctor and the tenant commands."""
