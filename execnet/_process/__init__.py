"""What a gateway goes over: processes here and on other gateways, their first bytes, their stderr, their end."""
