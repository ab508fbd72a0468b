"""What a dialect is given: the winner of a run, how its batch is split, its rows, files with comments."""
