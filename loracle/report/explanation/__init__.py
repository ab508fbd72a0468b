"""Why a config was tried, what may be concluded, what to try next: numbers, and sentences made of them."""
