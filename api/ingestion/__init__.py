"""Ingestion: a tenant's events, acknowledged only once Kafka has them."""
