"""Programs run on the far side, or beside it."""
