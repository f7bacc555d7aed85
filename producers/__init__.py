"""Exchanges to Kafka: protocols, the reconnecting feed, the publisher, and the exchange simulator."""
