"""Subscriptions: which products of which exchange a tenant gets."""
