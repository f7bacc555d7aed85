-- The forecast that a statistic of prices carries at whole minutes, for the time of its window's length that follows.
ALTER TABLE stats
    ADD COLUMN forecast_volatility double precision,
    ADD COLUMN forecast_low double precision,
    ADD COLUMN forecast_high double precision;
