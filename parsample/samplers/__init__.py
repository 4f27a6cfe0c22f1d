"""From a log density, or a BlackJAX algorithm, to draws."""
