"""What the commands do: those that talk to a running installation, and those that read files offline."""
