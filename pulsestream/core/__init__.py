"""What every room stands on: settings, names, errors, clock, log, metrics, Kafka clients. It knows no record."""
