"""Names, options and help of the commands that a tenant uses over the API: one module for each kind of thing."""
