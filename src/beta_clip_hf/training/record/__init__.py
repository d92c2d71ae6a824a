"""What a run records about itself: identity, legs, counted rows, results, and the images it trains on."""
