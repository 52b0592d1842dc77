"""What bench/speed.py times: our code, the obvious form of the same mathematics, and an official checkout where one is given."""
