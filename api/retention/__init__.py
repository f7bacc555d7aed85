"""Retention: what a tenant's tier no longer keeps is removed, and chunks are made as long as their rate allows."""
