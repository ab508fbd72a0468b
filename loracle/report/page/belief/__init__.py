"""The parts of the page on what the search believes, and their charts."""
