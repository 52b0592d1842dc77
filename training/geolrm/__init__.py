"""Training of GeoLRM's two networks (section 3.3 and appendix A.1)."""
