"""Settings of other trainers as a config of ours: what each key means, what a sweep tries, the file."""
