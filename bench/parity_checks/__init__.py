"""One module for each published system: what our code makes of a golden's inputs, under the golden's own names."""
