"""One module for each way to run a heavy operation; the operation's own module chooses among them."""
