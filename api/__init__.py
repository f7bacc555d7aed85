"""The HTTP room: keys, tenants, ingestion, search, subscriptions, rules; and the relay that carries them to Kafka."""
