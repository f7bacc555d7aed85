"""What tenants log in to Kafka with: made and revoked over the API, brought to the broker by the relay."""
