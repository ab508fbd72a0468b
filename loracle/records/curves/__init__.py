"""Learning curves: what a trial keeps of how its training went."""
