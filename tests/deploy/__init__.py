"""Two releases of one app, deployed over each other while they work: `python -m tests.deploy --seconds 300`."""
