"""PulseStream: multi-tenant, Kafka-centric live market data."""
