"""Results of runs that are over: read, compared or refused, laid on the candidates of a space."""
