"""Several runs side by side: records, a table, sentences, a figure."""
