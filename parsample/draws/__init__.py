"""Arrays of draws: their layout, where they are stored, their summary, and their DataTree."""
