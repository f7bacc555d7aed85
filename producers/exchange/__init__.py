"""A local exchange that speaks as Coinbase, Binance or Kraken: replays recordings, makes markets, fails by plan."""
