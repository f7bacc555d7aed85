"""The HTTP door: keys, tenants, subscriptions, ingestion, search and rules, and the control relay."""
