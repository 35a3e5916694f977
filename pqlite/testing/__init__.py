"""For those who test their jobs."""
