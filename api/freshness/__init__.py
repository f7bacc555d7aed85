"""How far the database is behind a tenant's topics, and how old the newest rows are."""
