"""Tenants: registration."""
