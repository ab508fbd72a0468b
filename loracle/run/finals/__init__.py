"""What follows a search: the best two trained once more where noise hides which is better, the winner and the
standard settings on all data, and what that leaves in the run folder."""
