"""Kafka to the database: rows and positions in one transaction, dead letters for what is not a record."""
