"""A local exchange that speaks Coinbase Exchange's WebSocket protocol: replays recordings or makes a market."""
