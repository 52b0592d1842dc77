"""Feed-forward reconstruction networks as stages: InstantMesh's LRM, GeoLRM."""
