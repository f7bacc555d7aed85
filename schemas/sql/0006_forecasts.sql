-- The forecast that a minute's first statistic of prices carries, for the time of its window's length that follows.
ALTER TABLE stats
    ADD COLUMN forecast_volatility double precision,
    ADD COLUMN forecast_low double precision,
    ADD COLUMN forecast_high double precision;
