"""Rolling statistics and alerts: a Faust worker on a batch transport around the pure engine."""
