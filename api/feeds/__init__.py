"""What the feeds deliver, and what is missing, of the products that a tenant gets."""
