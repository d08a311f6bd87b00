"""Real counterparts for the tests: servers, interpreters, the oracle, the leak check."""
