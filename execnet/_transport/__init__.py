"""The ways to the other side, by the key of a spec that asks for each: the table of them is `registry`."""
