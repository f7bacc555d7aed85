"""The local stack: an embedded Kafka broker and database, and the supervisor that runs every process."""
