"""Commands that look at what runs have found, one a file."""
