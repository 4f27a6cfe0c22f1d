"""Draw samples from a log density or with a BlackJAX algorithm."""
