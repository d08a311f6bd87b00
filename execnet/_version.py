"""The version of this execnet."""

version = "2.2.0"
