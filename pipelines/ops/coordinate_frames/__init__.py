"""Other coordinate frames than Lathe's world, each with the one place that converts."""
