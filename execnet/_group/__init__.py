"""What `execnet.multi` is made of: what belongs to a group, how many are started together and ended together."""
