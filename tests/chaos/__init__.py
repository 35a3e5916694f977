"""Random faults for as long as one likes: `python -m tests.chaos --minutes 10`."""
