"""A read-only schema registry that speaks Confluent's API."""
