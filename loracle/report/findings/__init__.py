"""What a run shows, as plain frozen records: what the report says is computed here and drawn elsewhere."""
