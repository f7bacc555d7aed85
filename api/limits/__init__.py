"""What a tenant may have and how fast it may ask: tiers, token buckets, and what a stranger's address may try."""
