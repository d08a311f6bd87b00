"""What stands behind `execnet.multi`: who belongs to a group, how many are started together and ended together."""
