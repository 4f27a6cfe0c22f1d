"""Methods and measures of the papers that a user of parsample would not choose, kept to regenerate their findings."""
